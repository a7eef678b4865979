"""schema.py SCHEMA SPEC...: holds CDI specifications against CDI's JSON schema (draft 7)."""
import json, os, sys
import jsonschema, yaml

base = os.path.dirname(os.path.abspath(sys.argv[1]))
schema = json.load(open(sys.argv[1]))
store = {}
for name in ("schema.json", "defs.json"):
    document = json.load(open(os.path.join(base, name)))
    for key in (name, document.get("$id"), "file://" + os.path.join(base, name)):
        if key:
            store[key] = document
resolver = jsonschema.RefResolver("file://" + sys.argv[1], schema, store=store)
bad = 0
for path in sys.argv[2:]:
    spec = yaml.safe_load(open(path))
    for error in jsonschema.Draft7Validator(schema, resolver=resolver).iter_errors(spec):
        bad += 1
        print(f"{path}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}")
print(f"{len(sys.argv) - 2} specifications, {bad} errors")
sys.exit(bad != 0 or len(sys.argv) == 2)

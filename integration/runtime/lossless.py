"""lossless.py DIR: for each NAME.before of DIR, NAME.after must be the same document but for what the runtime entry may add.

Numbers are compared as they are spelled, objects with the order of their keys. What may be there in addition: NVIDIA's device nodes and
rules for them, one hook of ours, supplementary groups, the directory of libcuda; hooks of the vendor's name and second hooks of ours may be gone.
"""

import json
import pathlib
import sys

OURS = "nvoci"
VENDORS = {"nvidia-container-runtime-hook", "nvidia-container-toolkit"}
NODES = ("/dev/nvidia", "/dev/dri/", "/dev/dxg")


class Spelled(str):
    """A number as it was written."""


def load(path):
    spelled = dict(parse_int=Spelled, parse_float=Spelled, parse_constant=Spelled)
    return json.loads(path.read_text(), object_pairs_hook=lambda pairs: pairs, **spelled)


def is_object(value):
    return isinstance(value, list) and all(isinstance(v, tuple) for v in value) and value


def get(value, *keys):
    for key in keys:
        value = next((v for k, v in value if k == key), None) if is_object(value) else None
    return value


def injects(hook):
    return (get(hook, "path") or "").rsplit("/", 1)[-1] in VENDORS | {OURS}


def without(value, path=()):
    """The document without what may differ."""
    if is_object(value):
        out = []
        for key, inner in value:
            here = path + (key,)
            inner = without(inner, here)
            if here == ("linux", "devices"):
                inner = [d for d in inner or [] if not get(d, "path").startswith(NODES)]
            elif here == ("linux", "resources", "devices"):
                inner = [r for r in inner or [] if get(r, "major") not in {"195", "238", "241"}]
            elif here == ("process", "env"):
                inner = [v for v in inner or [] if v != "NVIDIA_CTK_LIBCUDA_DIR=/usr/local/nvidia/lib64"]
            elif len(here) == 2 and here[0] == "hooks":
                inner = [h for h in inner or [] if not injects(h)]
            # A list that only holds what is ours may be new.
            new = here in {("linux", "devices"), ("linux", "resources", "devices"), ("process", "user", "additionalGids")}
            if inner in ([], None) and (new or here[:1] == ("hooks",)):
                continue
            out.append((key, inner))
        return out
    if isinstance(value, list):
        return [without(v, path + ("[]",)) for v in value]
    return value


def main():
    directory = pathlib.Path(sys.argv[1])
    pairs = sorted(directory.glob("*.before"))
    bad = 0
    changed = 0
    for before in pairs:
        after = before.with_suffix(".after")
        if not after.exists():
            print(f"{before.name}: no file after")
            bad += 1
            continue
        changed += before.read_bytes() != after.read_bytes()
        if without(load(before)) != without(load(after)):
            print(f"{before.name}: not the same")
            bad += 1
    print(f"{len(pairs)} files, {changed} changed, {bad} wrong")
    sys.exit(bad != 0 or changed == 0)


main()

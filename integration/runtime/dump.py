"""dump.py DIR: holds the recorded `containerd config dump`s against what was asked for.

Each variant must differ from the dump before it by the runtime, and by the default and CDI if they were asked for; and the
two ways, in the main file and in a drop-in, must have one effect."""
import pathlib, sys, tomllib

PLUGINS = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")


def flat(value, path=()):
    if isinstance(value, dict) and value:
        out = {}
        for key, inner in value.items():
            out.update(flat(inner, path + (key,)))
        return out
    return {path: value}


def load(file):
    return flat(tomllib.loads(file.read_text()))


faults, effects, seen = [], {}, 0
for directory in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    seen += 1
    engine, config, way, default, cdi = (directory / "what").read_text().split()
    before, after = load(directory / "before.out"), load(directory / "after.out")
    cri = next(p for p in PLUGINS if any(k[:2] == ("plugins", p) for k in before))
    top = ("plugins", cri)
    runtimes = top + ("containerd", "runtimes")

    def fault(text):
        faults.append(f"{directory.name}: {text}")

    lost = {k: v for k, v in before.items() if k not in after and v not in ("", 0, False, None, [], {})}
    if lost:
        fault(f"lost {lost}")
    new = {k: v for k, v in after.items() if before.get(k, None) != v}
    ours = {k: v for k, v in new.items() if k[: len(runtimes) + 1] == runtimes + ("nvidia",)}
    if ours.get(runtimes + ("nvidia", "options", "BinaryName")) != "/usr/bin/nvoci-runtime":
        fault(f"the runtime is not there: {ours}")
    if after.get(runtimes + ("nvidia", "options", "SystemdCgroup")) is not True:
        fault("the runtime has not the default runtime's options")
    name = after.get(top + ("containerd", "default_runtime_name"))
    if name != ("nvidia" if default != "no" else "runc"):
        fault(f"the default runtime is {name}")
    enabled, was = after.get(top + ("enable_cdi",)), before.get(top + ("enable_cdi",))
    # containerd 1.6 has no CDI, and does not print the key.
    if cdi != "no" and not engine.startswith("1.6") and enabled is not True:
        fault("CDI is not on")
    if cdi == "no" and enabled != was:
        fault(f"enable_cdi was {was} and is {enabled}")
    # containerd 2 prints the pattern, earlier ones the files.
    imports = set(after.get(("imports",), ())) - {"/etc/containerd/config.toml"}
    wanted = {f"/etc/containerd/conf.d/{'99-nvidia' if engine < '2' else '*'}.toml"}
    if imports != (wanted if way == "drop-in" else set()):
        fault(f"imports are {imports}")
    allowed = {top + ("containerd", "default_runtime_name"), top + ("enable_cdi",), top + ("cdi_spec_dirs",), ("imports",)}
    other = {k: v for k, v in new.items() if k not in ours and k not in allowed}
    # What was a default and is now written out is no change.
    other = {k: v for k, v in other.items() if not (k not in before and v in ("", 0, False, [], {}))}
    if other:
        fault(f"changed besides: {other}")
    effect = {k: v for k, v in after.items() if k != ("imports",)}
    key = (engine, config, default, cdi)
    if key in effects and effects[key] != effect:
        differ = {k for k in effects[key].keys() | effect.keys() if effects[key].get(k) != effect.get(k)}
        fault(f"main file and drop-in differ in {sorted(differ)[:4]}")
    effects.setdefault(key, effect)
print(f"{seen} variants, {len(faults)} faults")
print("\n".join(faults))
sys.exit(bool(faults) or seen == 0)

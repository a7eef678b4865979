"""render.py lint|write DIR|refuse: the chart through Helm itself (helm-python-sdk).

lint     Helm's strict lint of the defaults and of each case
write    DIR/golden/CASE.yaml, and the plain manifests DIR/plain/{install,remove}.yaml
refuse   values that the schema must not accept
"""
import pathlib
import sys

import helm_python as helm

here = pathlib.Path(__file__).resolve().parent
path = here.parents[1] / "packaging/helm/nvoci"
cases = {"defaults": {}, "remove": {"mode": "remove"}}
for file in sorted((here / "cases").glob("*.yaml")):
    cases[file.stem] = helm.values_from_yaml(file.read_text())

# What a person writes by mistake: (values, words of the refusal).
WRONG = [
    ({"engin": "crio"}, "engin"),
    ({"engine": "docker"}, "engine"),
    ({"image": {"name": "x"}}, "name"),
    ({"image": {"digest": "sha256:1"}}, "digest"),
    ({"updateStrategy": {"maxUnavailable": 0}}, "maxUnavailable"),
    ({"updateStrategy": {"maxUnavailable": "0%"}}, "maxUnavailable"),
    ({"config": {"mode": "cdi"}}, "config"),
    ({"prefix": "opt/nvoci"}, "prefix"),
    ({"prefix": "/opt/../etc"}, "prefix"),
    ({"prefix": "/"}, "prefix"),
    ({"mode": "uninstall"}, "mode"),
    ({"probes": {"timeout": 1}}, "timeout"),
]


def rendered(chart, values, kinds=None):
    """The manifests in the order of their files, as `helm template` prints them."""
    parts = []
    for name, text in sorted(chart.render(values, name="nvoci", namespace="nvoci").items()):
        if not name.endswith(".yaml") or not text.strip():
            continue
        if kinds is None or pathlib.Path(name).stem in kinds:
            parts.append("---\n" + text.strip("\n") + "\n")
    # The namespace comes first: the others are made in it.
    parts.sort(key=lambda part: "kind: Namespace" not in part)
    return "".join(parts)


def plain(chart, values, kinds, about):
    text = rendered(chart, {**values, "namespace": {"create": True}}, kinds)
    return f"# {about}\n# Rendered from packaging/helm/nvoci by `make chart`.\n" + text.replace("managed-by: Helm", "managed-by: kubectl")


verb = sys.argv[1]
if verb == "lint":
    bad = 0
    for name, values in cases.items():
        report = helm.lint(path, values, strict=True, namespace="nvoci")
        # Severity 1 is a recommendation: the chart has no icon.
        for message in report["messages"]:
            if message["severity"] > 1:
                print(f"{name}: {message['path']}: {message['error']}")
                bad += 1
    sys.exit(bad != 0)
chart = helm.Chart.load(path)
if verb == "refuse":
    bad = 0
    for values, words in WRONG:
        try:
            chart.validate_schema(values)
            print(f"accepted: {values}")
            bad += 1
        except helm.HelmError as e:
            if words not in str(e):
                print(f"{values}: {e}")
                bad += 1
    sys.exit(bad != 0)
out = pathlib.Path(sys.argv[2])
for sub in ("golden", "plain"):
    (out / sub).mkdir(parents=True, exist_ok=True)
for name, values in cases.items():
    (out / "golden" / f"{name}.yaml").write_text(rendered(chart, values))
everything = {"namespace", "configmap", "daemonset", "runtimeclass"}
(out / "plain/install.yaml").write_text(
    plain(chart, {}, everything, "nvoci on every node with a GPU. Put your image in, then: kubectl apply -f install.yaml")
)
(out / "plain/remove.yaml").write_text(
    plain(chart, {"mode": "remove"}, {"configmap", "daemonset"}, "Takes nvoci off the nodes: kubectl apply -f remove.yaml; when its pods are Ready: kubectl delete -f install.yaml")
)

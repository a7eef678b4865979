"""pack.py FORM OUT ROOT [ENV=VALUE...]: a root directory as an image archive.

FORM: docker (docker save), docker-gz, docker-zst (layers packed), oci (a layout in a directory), oci-tar. The image has two layers: the lower one
also has files that the upper one removes.
"""
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

form, out, root, *env = sys.argv[1:]


def plain(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def layer(fill):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        fill(tar)
    return data.getvalue()


def add(tar, path, data=b"", kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.type = len(data), 0o644, kind
    tar.addfile(entry, io.BytesIO(data))


# What the upper layer takes away: a CPU-only PyTorch, and a driver's library.
gone = ["usr/lib/python3/dist-packages/torch/version.py", "usr/lib/libcuda.so.1"]
lower = layer(lambda tar: [add(tar, path, b"__version__ = '1.0'\ncuda = None\n") for path in gone])


def upper_of(tar):
    for path in gone:
        head, name = os.path.split(path)
        add(tar, f"{head}/.wh.{name}")
    tar.add(root, arcname=".", filter=plain)


def packed(data):
    if form in ("docker-gz", "oci", "oci-tar"):
        return gzip.compress(data, 1)
    if form == "docker-zst":
        return subprocess.run(["zstd", "-q", "-1", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


raw = [lower, layer(upper_of)]
layers = [packed(data) for data in raw]
config = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": env or ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["python3"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(d).hexdigest() for d in raw]},
    }
).encode()
if form.startswith("docker"):
    files = [(f"{i}/layer.tar", data) for i, data in enumerate(layers)] + [("config.json", config)]
    files.append(("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": ["doctor:test"], "Layers": [f[0] for f in files[:-1]]}]).encode()))
else:
    files = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]

    def blob(data, media):
        digest = hashlib.sha256(data).hexdigest()
        files.append((f"blobs/sha256/{digest}", data))
        return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}

    described = [blob(data, "application/vnd.oci.image.layer.v1.tar+gzip") for data in layers]
    manifest = {"schemaVersion": 2, "config": blob(config, "application/vnd.oci.image.config.v1+json"), "layers": described}
    top = blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    files.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()))
if form == "oci":
    for path, data in files:
        os.makedirs(os.path.join(out, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(out, path), "wb") as f:
            f.write(data)
else:
    with tarfile.open(out, "w") as tar:
        for path, data in files:
            add(tar, path, data)

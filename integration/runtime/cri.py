"""cri.py SOCKET HANDLER REQUEST: one pod with one container through the CRI, as a kubelet makes it.

REQUEST is JSON: userns BOOL, env {NAME: VALUE}, mounts [[HOST, CONTAINER]], annotations {}, pod_annotations {}, cdi [NAME], devices [PATH],
questions [WORD] for the probe. What the probe says is printed; "error: MESSAGE" if the CRI refuses.
"""

import json
import sys
import time

import grpc

import cri_pb2 as p
import cri_pb2_grpc as g

LIMIT = 30
socket, handler, request = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
channel = grpc.insecure_channel("unix://" + socket, options=[("grpc.default_authority", "localhost")])
cri = g.RuntimeServiceStub(channel)

mode = p.NamespaceMode
# A user namespace needs a network of the pod's own, and that a plugin (containerd.sh has one that does nothing).
network = "POD" if request.get("userns") else "NODE"
namespaces = p.NamespaceOption(network=mode.Value(network), pid=mode.Value("CONTAINER"), ipc=mode.Value("POD"))
if request.get("userns"):  # a pod with `hostUsers: false`
    ids = [p.IDMapping(host_id=100000, container_id=0, length=65536)]
    namespaces.userns_options.CopyFrom(p.UserNamespace(mode=mode.Value("POD"), uids=ids, gids=ids))
sandbox = p.PodSandboxConfig(
    metadata=p.PodSandboxMetadata(name="pod", uid=f"u{time.time_ns()}", namespace="default", attempt=0),
    log_directory="/scratch/cri-log",
    annotations=request.get("pod_annotations", {}),
    linux=p.LinuxPodSandboxConfig(security_context=p.LinuxSandboxSecurityContext(namespace_options=namespaces)),
)


def container():
    # The newest protocol has bytes for the value, the older ones text; on the wire it is the same.
    envs = [p.KeyValue(key=k, value=v.encode()) for k, v in request.get("env", {}).items()]
    return p.ContainerConfig(
        metadata=p.ContainerMetadata(name="c", attempt=0),
        image=p.ImageSpec(image=request.get("image", "docker.io/local/slim:1")),
        command=["/usr/bin/probe", "--hold", "300"],
        envs=envs,
        log_path="c.log",
        annotations=request.get("annotations", {}),
        mounts=[p.Mount(host_path=h, container_path=c, readonly=True) for h, c in request.get("mounts", [])],
        CDI_devices=[p.CDIDevice(name=n) for n in request.get("cdi", [])],
        devices=[p.Device(host_path=d, container_path=d, permissions="rw") for d in request.get("devices", [])],
        linux=p.LinuxContainerConfig(
            security_context=p.LinuxContainerSecurityContext(
                namespace_options=namespaces,
                privileged=request.get("privileged", False),
                capabilities=p.Capability(add_capabilities=["MKNOD"]),
            )
        ),
    )


def ask(made):
    answer = cri.ExecSync(
        p.ExecSyncRequest(container_id=made, cmd=["/usr/bin/probe"] + request.get("questions", []), timeout=10), timeout=LIMIT
    )
    print(answer.stdout.decode() + answer.stderr.decode(), end="")


pod = made = None
try:
    pod = cri.RunPodSandbox(p.RunPodSandboxRequest(config=sandbox, runtime_handler=handler), timeout=LIMIT).pod_sandbox_id
    print("pod", pod)
    made = cri.CreateContainer(
        p.CreateContainerRequest(pod_sandbox_id=pod, config=container(), sandbox_config=sandbox), timeout=LIMIT
    ).container_id
    print("container", made)
    cri.StartContainer(p.StartContainerRequest(container_id=made), timeout=LIMIT)
    ask(made)
    if request.get("update"):
        cri.UpdateContainerResources(
            p.UpdateContainerResourcesRequest(container_id=made, linux=p.LinuxContainerResources(cpu_shares=512)), timeout=LIMIT
        )
        print("updated")
        ask(made)
except grpc.RpcError as e:
    print("error:", e.details())
finally:
    if made:
        cri.StopContainer(p.StopContainerRequest(container_id=made, timeout=0), timeout=LIMIT)
        cri.RemoveContainer(p.RemoveContainerRequest(container_id=made), timeout=LIMIT)
    if pod:
        cri.StopPodSandbox(p.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)
        cri.RemovePodSandbox(p.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)

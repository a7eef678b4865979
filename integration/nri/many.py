"""many.py SOCKET COUNT LABEL DEVICE: COUNT containers in one pod, four at a time; prints the times of create and start in ms."""

import sys
import time
from concurrent import futures

import grpc

import cri_pb2 as p
import cri_pb2_grpc as g

socket, count, label, device = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
cri = g.RuntimeServiceStub(grpc.insecure_channel("unix://" + socket, options=[("grpc.default_authority", "localhost")]))
mode = p.NamespaceMode
spaces = p.NamespaceOption(network=mode.Value("NODE"), pid=mode.Value("CONTAINER"), ipc=mode.Value("POD"))
sandbox = p.PodSandboxConfig(
    metadata=p.PodSandboxMetadata(name="many", uid=f"u{time.time_ns()}", namespace="default", attempt=0),
    log_directory="/scratch/cri-log",
    annotations={"nvidia.cdi.k8s.io/pod": device} if device else {},
    linux=p.LinuxPodSandboxConfig(security_context=p.LinuxSandboxSecurityContext(namespace_options=spaces)),
)
pod = cri.RunPodSandbox(p.RunPodSandboxRequest(config=sandbox)).pod_sandbox_id
context = p.LinuxContainerSecurityContext(namespace_options=spaces)


def start(n):
    config = p.ContainerConfig(
        metadata=p.ContainerMetadata(name=f"c{n}", attempt=0),
        image=p.ImageSpec(image="docker.io/local/slim:1"),
        command=["/usr/bin/probe", "--hold", "300"],
        log_path=f"c{n}.log",
        linux=p.LinuxContainerConfig(security_context=context),
    )
    began = time.monotonic()
    made = cri.CreateContainer(p.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox), timeout=60)
    created = time.monotonic()
    cri.StartContainer(p.StartContainerRequest(container_id=made.container_id), timeout=60)
    ended = time.monotonic()
    # A container that stays would slow the next ones down.
    cri.StopContainer(p.StopContainerRequest(container_id=made.container_id, timeout=0), timeout=60)
    cri.RemoveContainer(p.RemoveContainerRequest(container_id=made.container_id), timeout=60)
    return (created - began) * 1000, (ended - created) * 1000


with futures.ThreadPoolExecutor(4) as pool:
    times = list(pool.map(start, range(count)))
cri.StopPodSandbox(p.StopPodSandboxRequest(pod_sandbox_id=pod))
cri.RemovePodSandbox(p.RemovePodSandboxRequest(pod_sandbox_id=pod))
for name, column in zip(("create", "start"), zip(*times)):
    column = sorted(column)
    print(f"{label} {name}: {count} containers, p50 {column[count // 2]:.1f} ms, p95 {column[count * 95 // 100]:.1f} ms, max {column[-1]:.1f} ms")

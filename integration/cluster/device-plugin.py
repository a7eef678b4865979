"""device-plugin.py DIRECTORY STRATEGY ID...: a device plugin of nvidia.com/gpu beside the kubelet's socket in DIRECTORY. It
registers by the protocol v1beta1, again after each restart of the kubelet, and passes devices as NVIDIA's plugin does:

envvar            NVIDIA_VISIBLE_DEVICES=ID
volume-mounts     mounts of /dev/null on /var/run/nvidia-container-devices/ID
cdi-annotations   an annotation of the container
"""

import os
import sys
import time
from concurrent import futures

import grpc

directory, strategy, *ids = sys.argv[1:]
own, kubelet = directory + "/nvidia-gpu.sock", directory + "/kubelet.sock"


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, content):
    content = content if isinstance(content, bytes) else content.encode()
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(message):
    """The length-delimited fields of a message, which are all that this protocol has but for numbers that are not read."""
    at = 0

    def number():
        nonlocal at
        shift = value = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        size = number()
        if key & 7 == 2:
            yield key >> 3, message[at : at + size]
            at += size


def entry(number, key, value):
    return field(number, field(1, key) + field(2, value))


def container(chosen):
    """ContainerAllocateResponse: envs 1, mounts 2, devices 3, annotations 4."""
    if strategy == "envvar":
        return entry(1, "NVIDIA_VISIBLE_DEVICES", ",".join(chosen))
    if strategy == "volume-mounts":
        at = "/var/run/nvidia-container-devices"
        mounts = [field(2, field(1, f"{at}/{i}") + field(2, "/dev/null")) for i in chosen]
        return entry(1, "NVIDIA_VISIBLE_DEVICES", at) + b"".join(mounts)
    names = ",".join(f"nvidia.com/gpu={i}" for i in chosen)
    return entry(4, "cdi.k8s.io/nvidia-device-plugin_" + chosen[0][-12:], names)


def allocate(request, context):
    asked = [[i.decode() for n, i in fields(c) if n == 1] for n, c in fields(request) if n == 1]
    print("allocate", asked, flush=True)
    return b"".join(field(1, container(chosen)) for chosen in asked)


def watch(request, context):
    yield b"".join(field(1, field(1, i) + field(2, "Healthy")) for i in ids)
    while context.is_active():
        time.sleep(0.2)


handlers = {
    "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(lambda r, c: b""),
    "ListAndWatch": grpc.unary_stream_rpc_method_handler(watch),
    "Allocate": grpc.unary_unary_rpc_method_handler(allocate),
    "PreStartContainer": grpc.unary_unary_rpc_method_handler(lambda r, c: b""),
}


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers)])
    server.add_insecure_port("unix://" + own)
    server.start()
    with grpc.insecure_channel("unix://" + kubelet, options=[("grpc.default_authority", "localhost")]) as channel:
        request = field(1, "v1beta1") + field(2, os.path.basename(own)) + field(3, "nvidia.com/gpu")
        channel.unary_unary("/v1beta1.Registration/Register")(request, timeout=5, wait_for_ready=True)
    print("registered", strategy, flush=True)
    return server


def inode():
    try:
        return os.stat(kubelet).st_ino
    except OSError:
        return None


while True:
    while not inode():
        time.sleep(0.2)
    seen = inode()
    try:
        server = serve()
    except grpc.RpcError as e:
        print("not registered:", e.details(), flush=True)
        time.sleep(0.5)
        continue
    # A kubelet that starts removes the sockets of its directory.
    while inode() == seen and os.path.exists(own):
        time.sleep(0.2)
    server.stop(0)

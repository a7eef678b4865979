"""kubelet.py SOCKET ID: a kubelet's pod-resources API that lists one container, default/pod/c, with the device ID of nvidia.com/gpu."""

import sys
import time
from concurrent import futures

import grpc


def field(number, content):
    content = content if isinstance(content, bytes) else content.encode()
    assert len(content) < 1 << 14
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


devices = field(1, "nvidia.com/gpu") + field(2, sys.argv[2] + "::1")
container = field(1, "c") + field(2, devices)
pod = field(1, "pod") + field(2, "default") + field(3, container)
answer = b"".join(field(1, field(1, f"pod{n}") + field(2, "default")) for n in range(500)) + field(1, pod)

handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler})])
server.add_insecure_port("unix://" + sys.argv[1])
server.start()
time.sleep(600)

"""cri-v1.py SOCKET ENGINE: serves the CRI v1alpha2 on SOCKET by the CRI v1 of ENGINE. Both versions have the same messages, so
only the service's name is changed, and every message passes as it is. The protocol has no streams in these versions."""

import sys
from concurrent import futures

import grpc

socket, engine = sys.argv[1:]
# The kubelet waits for its calls; the engine is restarted while they are on the way.
channel = grpc.insecure_channel(
    "unix://" + engine,
    options=[("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 16 << 20), ("grpc.max_reconnect_backoff_ms", 500)],
)


class Renamed(grpc.GenericRpcHandler):
    def service(self, details):
        method = details.method.replace("/runtime.v1alpha2.", "/runtime.v1.")
        call = channel.unary_unary(method)

        def forward(request, context):
            try:
                return call(request, timeout=context.time_remaining())
            except grpc.RpcError as e:
                context.abort(e.code(), e.details())

        return grpc.unary_unary_rpc_method_handler(forward)


server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", 16 << 20)])
server.add_generic_rpc_handlers([Renamed()])
server.add_insecure_port("unix://" + socket)
server.start()
server.wait_for_termination()

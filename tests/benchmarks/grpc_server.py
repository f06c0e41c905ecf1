"""The naive peer as a Python gRPC service: Adam's states in a dictionary, in memory, nothing durable.

    python -m tests.benchmarks.grpc_server coroutines 50051

serves `/naive.Optimizer/Create` and `/naive.Optimizer/Step` on 127.0.0.1, by grpc.aio or, with `threads`, by the server
with a pool of threads. The messages, in the words of a .proto file:

    message Request { string session = 1; repeated double values = 2; }
    message Stepped { int64 step = 1; repeated double params = 2; }

They are described here instead, so that nothing has to be compiled; the doubles are packed, as in proto3 they are.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks import adam

SERVICE = "naive.Optimizer"
KINDS = ("coroutines", "threads")
THREADS = 10  # grpc's own advice for a pool
Method = Callable[[Any, Any], Any]


def messages() -> tuple[Any, Any]:
    """The classes Request and Stepped."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="naive.proto", package="naive", syntax="proto3")
    for message, fields in {
        "Request": (("session", field.TYPE_STRING), ("values", field.TYPE_DOUBLE)),
        "Stepped": (("step", field.TYPE_INT64), ("params", field.TYPE_DOUBLE)),
    }.items():
        described = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(fields, 1):
            label = field.LABEL_REPEATED if kind == field.TYPE_DOUBLE else field.LABEL_OPTIONAL
            described.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, stepped = (pool.FindMessageTypeByName(f"naive.{name}") for name in ("Request", "Stepped"))
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(stepped)


def methods() -> tuple[dict[str, Method], Any]:
    """What the service does by method's name, and the class of its requests."""
    request, stepped = messages()
    states: dict[str, adam.State] = {}

    def create(asked: Any, _: Any) -> Any:
        states[asked.session] = adam.begin(asked.values)
        return stepped(step=0, params=asked.values)

    def step(asked: Any, _: Any) -> Any:
        state = states[asked.session] = adam.advance(states[asked.session], asked.values)
        return stepped(step=state.step, params=state.params.tolist())

    return {"Create": create, "Step": step}, request


def handler(grpc: Any, coroutines: bool) -> Any:
    """The service for either kind of server."""
    by_name, request = methods()

    def awaited(method: Method) -> Any:
        async def run(asked: Any, context: Any) -> Any:
            return method(asked, context)

        return run

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            awaited(method) if coroutines else method,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, method in by_name.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def threads(port: int) -> None:
    """Serve with a pool of threads until the end."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((handler(grpc, coroutines=False),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def coroutines(port: int) -> None:
    """Serve with coroutines until the end."""
    import grpc.aio

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler(grpc, coroutines=True),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threads(int(sys.argv[2]))
    else:
        asyncio.run(coroutines(int(sys.argv[2])))

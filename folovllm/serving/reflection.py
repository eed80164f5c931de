"""Server reflection, as v1 and as v1alpha.

grpcurl and buf curl ask for v1 and fall back, some clients ask only for v1; grpcio-reflection has
only v1alpha. The two differ in the name of their package alone, so one servicer serves both.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

V1_SERVICE_NAME = "grpc.reflection.v1.ServerReflection"


def enable_reflection(server: grpc.aio.Server, service_names: Iterable[str]) -> None:
    """Lets clients read the schema of the named services, and of reflection, from `server`."""
    names = [*service_names, reflection.SERVICE_NAME]
    pool = _schema_of(names)
    names.append(V1_SERVICE_NAME)
    handler = grpc.stream_stream_rpc_method_handler(
        ReflectionServicer(names, pool).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
            for name in (reflection.SERVICE_NAME, V1_SERVICE_NAME)
        ]
    )


def _schema_of(service_names: Iterable[str]) -> DescriptorPool:
    """The files of these services, of the details of errors, and of the reflection that is v1.

    A pool of its own: in the default one, another package's file of v1 would be a conflict.
    """
    pool = DescriptorPool()
    for name in service_names:
        _add(pool, Default().FindFileContainingSymbol(name))
    _add(pool, error_details_pb2.DESCRIPTOR)
    pool.AddSerializedFile(_v1_file().SerializeToString())
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    """Adds a file after those that it imports; a file that is there already stays as it is."""
    for imported in file.dependencies:
        _add(pool, imported)
    pool.AddSerializedFile(file.serialized_pb)


def _v1_file() -> FileDescriptorProto:
    """The file of v1: that of v1alpha with the package's other name, also in its path and types."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(renamed, FileDescriptorProto())

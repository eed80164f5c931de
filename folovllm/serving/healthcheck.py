"""Asks a server for its health; for containers and scripts, with nothing but grpc.

    python -m folovllm.serving.healthcheck localhost:50051 [SERVICE]

Exit status 0 when it is SERVING, else 1.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from folovllm.errors import from_rpc_error
from folovllm.serving.channel import open_sync_channel

ENGINE_SERVICE = "folovllm.v1.EngineService"
TOKENIZER_SERVICE = "folovllm.v1.TokenizerService"


def check_health(address: str, service: str = "", timeout: float = 5.0) -> str:
    """The health of `service` at `address`, such as "SERVING".

    Raises FolovError where no answer comes within `timeout` seconds.
    """
    with open_sync_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return name


def main(arguments: list[str]) -> int:
    """Prints the health and returns the exit status."""
    try:
        address, service = (*arguments, "")[:2]
        status = check_health(address, service)
    except Exception as error:
        status = str(error)
    print(status)
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How large a command may be."""

from folovllm.errors import InvalidRequestError
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import types_pb2


def check_size(message: types_pb2.Request | types_pb2.ForkRequest, field: str, what: str) -> None:
    """Refuses what gRPC would not send, since it would break the call for all other requests.

    What callers send is bounded, but bad words may become longer as token ids.
    """
    max_bytes = MAX_MESSAGE_BYTES - 1024  # for what a command adds
    if message.ByteSize() > max_bytes:
        raise InvalidRequestError(
            field,
            f"{what} have {message.ByteSize()} bytes as token ids, over the limit of {max_bytes}",
        )

"""check_bounds: whether a message of the contract keeps the bounds that the contract states."""

from google.protobuf.message import Message

from folovllm.bounds.message_checker import checker_of
from folovllm.bounds.violation import ViolationError


def check_bounds(message: Message) -> None:
    """Raises InvalidRequestError that names the first field found to break a bound.

    To be called before anything else happens to a message: before it, a message is as large and as
    strange as its sender likes.
    """
    try:
        checker_of(message.DESCRIPTOR).check(message)
    except ViolationError as error:
        raise error.as_invalid_request() from None

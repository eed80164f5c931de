"""Limits: how much a call may send and get back, checked before any work in proportion to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from folovllm.errors import InvalidRequestError
from folovllm.serving.channel import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """The limit on prompts. Its checks raise InvalidRequestError naming `field`."""

    max_prompt_bytes: int
    """Of a text, in bytes of UTF-8; also of token ids, since each stands for at least one byte."""

    def check_text(self, text: str, field: str = "text") -> None:
        """Checks the size of a text."""
        limit = self.max_prompt_bytes
        # A character has at least one byte, so the longest texts need not be encoded.
        if len(text) > limit or len(text.encode()) > limit:
            raise InvalidRequestError(field, f"{field} is over the limit of {limit} bytes")

    def check_num_token_ids(self, token_ids: Sequence[int], field: str = "token_ids") -> None:
        """Checks the number of token ids."""
        if len(token_ids) > self.max_prompt_bytes:
            raise InvalidRequestError(
                field,
                f"{len(token_ids)} token ids are over the limit of {self.max_prompt_bytes}",
            )

    def check_batch(self, sizes: Sequence[int], field: str) -> None:
        """Checks the bytes of texts, or the token ids of sequences, together."""
        if sum(sizes) > self.max_prompt_bytes:
            raise InvalidRequestError(
                field, f"together the {field} are over the limit of {self.max_prompt_bytes}"
            )


class ResponseSize:
    """The bytes of an answer while it grows. Its checks raise InvalidRequestError naming `field`,
    so that an answer that does not fit into a message is given up as soon as that is known.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Counts a part that is complete."""
        self.check_growth(num_bytes)
        self._num_bytes += num_bytes

    def check_growth(self, num_bytes: int) -> None:
        """Checks a part that has at least so many bytes, and is not counted yet."""
        if self._num_bytes + num_bytes > MAX_MESSAGE_BYTES:
            raise _too_large(self._field)


def check_response_size(response: Message, field: str) -> None:
    """Raises InvalidRequestError naming `field` if the response is too large for a message."""
    if response.ByteSize() > MAX_MESSAGE_BYTES:
        raise _too_large(field)


def _too_large(field: str) -> InvalidRequestError:
    return InvalidRequestError(
        field, f"the answer is over the limit of {MAX_MESSAGE_BYTES} bytes; send less at once"
    )

"""Codec: the tokenizer behind the service's limits, never in the event loop's way.

Every call of the service encodes and decodes here. What is given is bounded before any work in
proportion to it; what is long is converted on a thread, where the tokenizer releases the lock.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

from google.protobuf.message import Message

from folovllm.errors import InvalidRequestError
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from tokenizer_service.text.tokenizer import Tokenizer

# This many characters or token ids are converted in about a millisecond; more go to a thread.
MAX_INLINE = 2048
# Most texts or sequences in one call.
MAX_BATCH = 1024
# What a text costs beyond its length, in characters.
_COST_OF_ONE = 32

P = ParamSpec("P")
R = TypeVar("R")


class Codec:
    """Bounded conversions between text and token ids.

    `max_prompt_bytes` bounds a text, in bytes of UTF-8; and, since a token stands for at least one
    byte, a number of token ids.
    """

    def __init__(self, tokenizer: Tokenizer, max_prompt_bytes: int) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_bytes = max_prompt_bytes

    async def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""
        return await off_loop(len(text), self.tokenizer.encode, text, add_special_tokens)

    async def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; one that the tokenizer does not know has no text."""
        return await off_loop(
            len(token_ids), self.tokenizer.decode_known, token_ids, skip_special_tokens
        )

    def check_text(self, text: str, field: str = "text") -> None:
        """Raises InvalidRequestError naming `field` where a text is over the limit."""
        # A character has at least one byte, so the longest texts need not be encoded to be refused.
        most = self.max_prompt_bytes
        if len(text) > most or len(text.encode()) > most:
            raise InvalidRequestError(field, f"{field} is over the limit of {most} bytes")

    def check_num_token_ids(self, token_ids: Sequence[int], field: str = "token_ids") -> None:
        """Raises InvalidRequestError naming `field` where there are too many ids."""
        most = self.max_prompt_bytes
        if len(token_ids) > most:
            raise InvalidRequestError(
                field, f"{len(token_ids)} token ids are over the limit of {most}"
            )

    def check_batch(self, sizes: Sequence[int], field: str) -> None:
        """Raises InvalidRequestError naming `field` where a call has no, or too many, or too long
        parts, by their bytes or token ids.
        """
        if not 1 <= len(sizes) <= MAX_BATCH:
            raise InvalidRequestError(field, f"give 1 to {MAX_BATCH} {field}, got {len(sizes)}")
        if sum(sizes) > self.max_prompt_bytes:
            raise InvalidRequestError(
                field, f"together the {field} are over the limit of {self.max_prompt_bytes}"
            )


async def off_loop(size: int, convert: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """What `convert` returns, from a thread where it has more than MAX_INLINE to convert."""
    if size <= MAX_INLINE:
        return convert(*arguments, **named)
    return await asyncio.to_thread(convert, *arguments, **named)


def size_of_batch(parts: Iterable[Sequence[object]]) -> int:
    """The size of several parts as off_loop counts it."""
    return sum(len(part) + _COST_OF_ONE for part in parts)


def check_answer(answer: Message, field: str) -> None:
    """Raises InvalidRequestError naming `field` where it asks for more than a message may hold."""
    if answer.ByteSize() > MAX_MESSAGE_BYTES:
        raise InvalidRequestError(
            field, f"the answer is over the limit of {MAX_MESSAGE_BYTES} bytes; send less at once"
        )

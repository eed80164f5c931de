"""Codec: the tokenizer behind the service's limits, never in the event loop's way.

Every call of the service encodes and decodes here. What is given is bounded before any work in
proportion to it; what is long is converted on a thread, where the tokenizer releases the lock.
"""

import asyncio
from collections.abc import Sequence

from folovllm.errors import InvalidRequestError
from tokenizer_service.tokenizer import Tokenizer

# This many characters or token ids are converted in about a millisecond; more go to a thread.
MAX_INLINE = 2048


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
        if len(text) <= MAX_INLINE:
            return self.tokenizer.encode(text, add_special_tokens)
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special_tokens)

    async def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; one that the tokenizer does not know has no text."""
        if len(token_ids) <= MAX_INLINE:
            return self.tokenizer.decode_known(token_ids, skip_special_tokens)
        return await asyncio.to_thread(self.tokenizer.decode_known, token_ids, skip_special_tokens)

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

"""Renderer: conversations to text and token ids, bounded in size and time, off the event loop.

Even the shortest conversation is rendered on a thread: only so can the time limit hold whatever the
template does, and beside the rendering (0.25 ms) the way there and back costs next to nothing.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from folovllm.chat import ChatMessage, Conversation, Role
from folovllm.errors import FolovError, InvalidRequestError
from tokenizer_service.chat.conversation import (
    ConversationRequest,
    check_size,
    read_conversation,
)
from tokenizer_service.chat.daemon_threads import DaemonThreads
from tokenizer_service.chat.template import ChatTemplate, import_transformers
from tokenizer_service.text.codec import Codec

TIME_LIMIT = 5.0
# A rendering that overruns keeps its thread until it ends; this many can be lost.
_NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model sees it."""

    text: str
    token_ids: list[int]


class Renderer:
    """A chat template behind the service's limits. Belongs to one event loop.

    The codec's `max_prompt_bytes` bounds a conversation's texts together, and what is rendered of
    them; `time_limit` bounds the rendering in seconds, waiting for a thread included.
    """

    def __init__(
        self, template: ChatTemplate, codec: Codec, time_limit: float = TIME_LIMIT
    ) -> None:
        self._template = template
        self._codec = codec
        self._time_limit = time_limit
        self._threads = DaemonThreads(_NUM_THREADS, "render")
        self._imported: asyncio.Task[None] | None = None

    async def warm_up(self) -> None:
        """Renders once, so that no caller waits for transformers' import and the compiler."""
        if self._template.available:
            with suppress(FolovError):  # each caller will hear it
                await self.render(Conversation((ChatMessage(Role.USER, "Hello"),)))

    async def read(self, request: ConversationRequest) -> Conversation:
        """The conversation of a request. Raises InvalidRequestError naming the field."""
        return await read_conversation(request, self._codec.max_prompt_bytes)

    async def render(self, conversation: Conversation) -> Rendered:
        """The conversation's text and token ids.

        Raises InvalidRequestError naming `messages` or `tools`, and UnsupportedError where the
        model has no chat template.
        """
        self._template.check_available()
        text = await self._render_in_time(conversation)
        # The template has written the special tokens already.
        return Rendered(text, await self._codec.encode(text, add_special_tokens=False))

    async def _render_in_time(self, conversation: Conversation) -> str:
        if self._imported is None:
            self._imported = asyncio.create_task(self._threads.run(import_transformers))
        # Not a part of the time limit, since the caller is not to blame for it.
        await asyncio.shield(self._imported)
        try:
            async with asyncio.timeout(self._time_limit):
                return await self._threads.run(partial(self._render_bounded, conversation))
        except TimeoutError:
            raise InvalidRequestError(
                "messages", f"rendering them takes longer than {self._time_limit:g} s"
            ) from None

    def _render_bounded(self, conversation: Conversation) -> str:
        """Runs on a thread: already to measure a conversation of many small parts takes long."""
        most = self._codec.max_prompt_bytes
        check_size(conversation, most)
        text = self._template.render(conversation)
        try:
            if len(text) <= most and len(text.encode()) <= most:
                return text
        except UnicodeEncodeError:  # JSON can write half a surrogate pair, UTF-8 cannot
            raise InvalidRequestError("messages", "they hold text that is not Unicode") from None
        raise InvalidRequestError("messages", f"rendered they are over the limit of {most} bytes")

"""Renderer: conversations to text and token ids, bounded in size and time, on threads.

Even the shortest conversation is rendered on a thread: otherwise a template could exceed the time
limit, and compared to the rendering (0.25 ms) the switch costs next to nothing.
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
from tokenizer_service.chat.daemon_thread_pool import DaemonThreadPool
from tokenizer_service.chat.template import ChatTemplate, import_transformers
from tokenizer_service.text.offload import offload_if_large
from tokenizer_service.text.tokenizer import Tokenizer

TIME_LIMIT = 5.0
# A rendering that exceeds the limit keeps its thread until it ends; that many can hang.
_NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model sees it."""

    text: str
    token_ids: list[int]


class Renderer:
    """A chat template with limits. Belongs to one event loop.

    `max_bytes` bounds a conversation's texts together, and the rendered text; `time_limit` bounds
    the rendering in seconds, including the wait for a thread.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        max_bytes: int,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._max_bytes = max_bytes
        self._time_limit = time_limit
        self._threads = DaemonThreadPool(_NUM_THREADS, "render")
        self._imported: asyncio.Task[None] | None = None

    async def warm_up(self) -> None:
        """Renders once, so that no caller waits for transformers' import and the compiler."""
        with suppress(FolovError):  # each caller gets it
            await self.render(Conversation((ChatMessage(Role.USER, "Hello"),)))

    async def read(self, request: ConversationRequest) -> Conversation:
        """The conversation of a request. Raises InvalidRequestError naming the field."""
        size = request.ByteSize()
        return await offload_if_large(size, read_conversation, request, self._max_bytes)

    async def render(self, conversation: Conversation) -> Rendered:
        """The conversation's text and token ids.

        Raises InvalidRequestError naming `messages` or `tools`, and UnsupportedError if the model
        has no chat template.
        """
        self._template.check_available()
        text = await self._render_in_time(conversation)
        # The template has written the special tokens already.
        token_ids = await offload_if_large(len(text), self._tokenizer.encode, text, False)
        return Rendered(text, token_ids)

    async def _render_in_time(self, conversation: Conversation) -> str:
        if self._imported is None:
            self._imported = asyncio.create_task(self._threads.run(import_transformers))
        # The time limit does not include it, since it does not depend on the request.
        await asyncio.shield(self._imported)
        try:
            async with asyncio.timeout(self._time_limit):
                return await self._threads.run(partial(self._render_bounded, conversation))
        except TimeoutError:
            raise InvalidRequestError(
                "messages", f"rendering them takes longer than {self._time_limit:g} s"
            ) from None

    def _render_bounded(self, conversation: Conversation) -> str:
        """Runs on a thread: even measuring a conversation of many small parts takes long."""
        check_size(conversation, self._max_bytes)
        text = self._template.render(conversation)
        try:
            num_bytes = len(text) if len(text) > self._max_bytes else len(text.encode())
        except UnicodeEncodeError:  # JSON can contain an unpaired surrogate, UTF-8 cannot
            raise InvalidRequestError("messages", "they hold text that is not Unicode") from None
        if num_bytes > self._max_bytes:
            raise InvalidRequestError(
                "messages", f"rendered they are over the limit of {self._max_bytes} bytes"
            )
        return text

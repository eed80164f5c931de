"""Renderer: conversations to text and token ids, bounded in size and in processor time.

A small conversation is rendered in this process, on a thread: its size bounds the time (0.25 ms,
a few milliseconds at the most), and compared to that the switch costs next to nothing. A larger one
is rendered by a child, which takes a third of a millisecond more, holds nobody up meanwhile and can
be ended. Should a template turn out to be slow even with little, it has children do all of it.
"""

import asyncio
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from folovllm.chat import Tool, read_tools
from folovllm.errors import FolovError, InvalidRequestError, QueueFullError
from folovllm.serving.lanes.child_process import OverMemoryError, OverTimeError
from folovllm.serving.lanes.lanes import MAX_SECONDS, SHORT_SECONDS, Lanes
from folovllm.serving.lanes.work import Work
from tokenizer_service.chat.conversation import (
    ConversationRequest,
    check_encoded_size,
    count_parts,
    num_bytes,
    request_bytes,
    short_request,
)
from tokenizer_service.chat.rendering import Rendering, text_of
from tokenizer_service.chat.template import ChatTemplate, import_transformers
from tokenizer_service.text.daemon_thread_pool import DaemonThreadPool
from tokenizer_service.text.offload import Offload
from tokenizer_service.text.tokenizer import Tokenizer

# What is small takes about five milliseconds at the most: for its parts, or for JSON in it.
_MAX_SMALL_BYTES = 64 * 1024
_MAX_SMALL_PARTS = 128
# Small conversations only: no more than these can be hurt by a template that does not end.
_NUM_THREADS = 2
# Of a child, beyond what it has loaded; a conversation of a mebibyte takes about fifty.
_MAX_CHILD_BYTES = 512 * 1024 * 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger("renderer")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model sees it."""

    text: str
    token_ids: list[int]


class Renderer:
    """A chat template with limits. Belongs to one event loop.

    `max_bytes` bounds a conversation's texts together, and the rendered text; `max_seconds` bounds
    the processor time of the rendering itself.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        max_bytes: int,
        offload: Offload | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._max_bytes = max_bytes
        self._offload = offload or Offload()
        self._rendering = Rendering(template, max_bytes)
        self._small_seconds = min(SHORT_SECONDS, max_seconds)
        self._small_are_slow = False
        self._threads = DaemonThreadPool(_NUM_THREADS, "render")
        self._imported: asyncio.Task[None] | None = None
        work = Work(
            "tokenizer_service.chat.rendering:prepare_rendering",
            self._rendering.setup(),
            _MAX_CHILD_BYTES,
        )
        self._lanes = Lanes(work, max_seconds)

    async def warm_up(self) -> None:
        """Renders once, so that no caller waits for an import, the compiler or a child."""
        if not self._template.text:
            return
        self._lanes.warm_up()
        with suppress(FolovError):  # each caller gets it
            await self.render(short_request())

    async def close(self) -> None:
        """Ends the children."""
        await self._lanes.close()

    async def read_tools(self, request: ConversationRequest) -> tuple[Tool, ...]:
        """A conversation's tools. Raises InvalidRequestError naming the field."""
        size = sum(tool.ByteSize() for tool in request.tools)
        return await self._offload.run(size, read_tools, request)

    async def render(self, request: ConversationRequest, caller: Hashable = None) -> Rendered:
        """The text of a request's conversation, and its token ids. Callers take turns.

        Raises InvalidRequestError naming `messages` or `tools` or a field of theirs,
        UnsupportedError if the model has no chat template, and QueueFullError if too many others
        wait.
        """
        self._template.check_available()
        num_parts, size = count_parts(request), num_bytes(request)
        small = num_parts <= _MAX_SMALL_PARTS and size <= _MAX_SMALL_BYTES
        if small and not self._small_are_slow:
            text = await self._render_here(request)
        else:
            check_encoded_size(request, num_parts, self._max_bytes)
            text = await self._render_in_child(request, caller)
        # The template has written the special tokens already.
        token_ids = await self._offload.run(len(text), self._tokenizer.encode, text, False)
        return Rendered(text, token_ids)

    async def _render_here(self, request: ConversationRequest) -> str:
        if self._imported is None:
            self._imported = asyncio.create_task(self._threads.run(import_transformers))
        await asyncio.shield(self._imported)
        return await self._threads.run(partial(self._render_small, request))

    def _render_small(self, request: ConversationRequest) -> str:
        """Runs on a thread, of which it watches the processor time."""
        begun = time.thread_time()
        try:
            return self._rendering.render(request)
        finally:
            seconds = time.thread_time() - begun
            if seconds > self._small_seconds and not self._small_are_slow:
                self._small_are_slow = True
                log.warning("the chat template is slow", seconds=round(seconds, 2))

    async def _render_in_child(self, request: ConversationRequest, caller: Hashable) -> str:
        try:
            return text_of(await self._lanes.run(partial(request_bytes, request), caller))
        except (OverTimeError, OverMemoryError) as error:
            raise InvalidRequestError("messages", f"rendering them: {error}") from None
        except QueueFullError as error:
            raise QueueFullError(
                "too many large conversations wait to be rendered", error.retry_after
            ) from None

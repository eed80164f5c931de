"""Tasks that run beside whoever started them, such that the end of none goes unseen."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


def start_background(
    work: Coroutine[Any, Any, None],
    name: str,
    on_end: Callable[[BaseException | None], None] | None = None,
) -> asyncio.Task[None]:
    """Starts `work`; when it ends, `on_end` gets what it raised, or None.

    An error is logged with its traceback; that of a cancelled task is a CancelledError, which is
    not. Keep the task: the event loop alone does not.
    """

    def ended(task: asyncio.Task[None]) -> None:
        cancelled = task.cancelled()
        error = asyncio.CancelledError() if cancelled else task.exception()
        if error is not None and not cancelled:
            log.error("background task failed: %s", name, exc_info=error)
        if on_end is not None:
            on_end(error)

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    return task


async def first(*awaitables: Awaitable[object]) -> None:
    """Waits for the first to end, cancels the others, and raises what the first one raised."""
    tasks = [*map(asyncio.ensure_future, awaitables)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()

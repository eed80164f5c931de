"""The last line of a terminal while both services run: what the engine is doing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.text import Text

from folovllm_client.cli.console import open_console
from folovllm_client.cli.serve.engine_load import Load, follow_load

# Seconds over which tokens are counted for their rate.
_WINDOW = 0.4


@contextmanager
def status_line(engine_address: str) -> Iterator[None]:
    """Shows the engine's load while the body runs; what is written meanwhile appears above it."""
    text = StatusText()
    with Live(console=open_console(err=True), auto_refresh=False, transient=True) as live:
        following = asyncio.create_task(
            follow_load(engine_address, lambda load: live.update(text.of(load), refresh=True))
        )
        try:
            yield
        finally:
            following.cancel()


class StatusText:
    """Writes the line, with the rate since an earlier one."""

    def __init__(self) -> None:
        self._counted: tuple[float, int] | None = None
        self._rate: float | None = None

    def of(self, load: Load) -> Text:
        """The line for a load that was read now."""
        self._update_rate(load)
        parts = [
            f"running {load.num_running}",
            f"waiting {load.num_waiting}",
            _count(load.num_admitted, "request"),
            _count(load.num_generated_tokens, "token"),
            *([] if self._rate is None else [f"{self._rate:,.0f} tokens/s"]),
            f"KV {load.kv_cache_usage:.0%}".replace("%", " %"),
        ]
        return Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")

    def _update_rate(self, load: Load) -> None:
        """Over at least a window, in which requests ran all the time."""
        now, tokens = time.monotonic(), load.num_generated_tokens
        if not load.num_requests:
            self._counted = self._rate = None
        elif self._counted is None:
            self._counted = (now, tokens)
        elif now - self._counted[0] >= _WINDOW:
            self._rate = (tokens - self._counted[1]) / (now - self._counted[0])
            self._counted = (now, tokens)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""Both services of this environment, for a client of another one."""

import asyncio
import json
import time
from collections.abc import Callable

from folovllm.errors import FolovError
from folovllm_client.launch.service_commands import ServeOptions, free_ports, service_commands
from folovllm_client.launch.supervisor import Supervisor, run_services
from tools.release.steps import ReleaseError

START_SECONDS = 180.0
"""How long the services may take to start."""
LOG_SECONDS = 10.0
"""How long a line of their log may take to come."""


class Services:
    """Where both answer, and what they have logged."""

    def __init__(self) -> None:
        port, engine_port = free_ports(2)
        self._options = ServeOptions(
            port=port, engine_port=engine_port, device="cpu", log_format="json"
        )
        self._log: list[str] = []

    @property
    def addresses(self) -> tuple[str, str]:
        """The tokenizer service's and the engine's."""
        return self._options.address, self._options.engine_address

    def during(self, check: Callable[[], None]) -> None:
        """Runs `check` in a thread while both serve. Raises ReleaseError."""
        options = self._options
        supervisor = Supervisor(service_commands(options), options.address, self._log.append)

        async def body() -> None:
            await asyncio.wait_for(supervisor.ready(), START_SECONDS)
            await asyncio.to_thread(check)

        try:
            finished = asyncio.run(run_services(supervisor, body))
        except (FolovError, TimeoutError) as error:
            lines = ["the services do not serve", *self._log[-20:], str(error)]
            raise ReleaseError("\n".join(lines)) from error
        if not finished:
            raise KeyboardInterrupt

    def wait_for_cancelled(self, count: int) -> None:
        """Returns when `count` calls have ended because clients left. Raises ReleaseError."""
        give_up = time.monotonic() + LOG_SECONDS
        while (ended := sum(map(is_cancelled_call, self._log))) != count:
            if time.monotonic() > give_up:
                raise ReleaseError(
                    f"{count} streams were left unread, but {ended} calls were cancelled; "
                    "the client has to cancel a call when its iterator is closed"
                )
            time.sleep(0.02)


def is_cancelled_call(line: str) -> bool:
    """Whether the tokenizer service says with this line that a client left."""
    if not line.startswith("{"):
        return False
    entry = json.loads(line)
    return entry.get("code") == "CANCELLED" and "TokenizerService" in entry.get("method", "")

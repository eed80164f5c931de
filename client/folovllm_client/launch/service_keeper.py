"""ServiceKeeper: starts a service again when it has ended or hangs, and knows when to give up."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from folovllm_client.launch.liveness import Liveness
from folovllm_client.launch.service_process import ServiceEndedError, ServiceProcess

# Seconds before the next start, doubled each time that the service does not settle.
_PAUSE = 1.0
_MAX_PAUSE = 30.0
# A service that has answered for so many seconds has settled.
_SETTLED = 60.0
# In a row, without settling.
_MAX_ENDS = 5


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How a running service is watched."""

    address: str
    """Where it answers."""
    hang_timeout: float
    """Seconds without an answer until it is replaced."""
    stop_timeout: float
    """Seconds that processes may take which it leaves behind."""


class ServiceKeeper:
    """Keeps one service running that has been started."""

    def __init__(
        self, process: ServiceProcess, upkeep: Upkeep, on_restart: Callable[[str], None]
    ) -> None:
        """`on_restart` gets a line about each service that is started again."""
        self._process = process
        self._upkeep = upkeep
        self._on_restart = on_restart

    async def keep(self) -> None:
        """Runs until cancelled. Raises ServiceEndedError for a service that does not settle."""
        ends, name = 0, self._process.name
        while True:
            liveness = Liveness(self._upkeep.address)
            reason = await self._end(liveness)
            ends = 1 if liveness.seconds_alive >= _SETTLED else ends + 1
            if ends == _MAX_ENDS:
                raise ServiceEndedError(f"the {name} ended {ends} times in a row: {reason}")
            pause = min(_PAUSE * 2 ** (ends - 1), _MAX_PAUSE)
            self._on_restart(f"the {name} ended: {reason}; it is started again in {pause:g} s")
            await self._process.clear_up(self._upkeep.stop_timeout)
            await asyncio.sleep(pause)
            await self._process.start()

    async def _end(self, liveness: Liveness) -> str:
        """Waits for the service's end, which one that hangs is given, and returns the reason."""
        seconds = self._upkeep.hang_timeout
        silence = asyncio.ensure_future(liveness.until_silent(seconds))
        end = asyncio.ensure_future(self._process.ended())
        try:
            await asyncio.wait({silence, end}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
            silence.result()
            await self._process.abort()
            return f"it did not answer for {seconds:g} s"
        finally:
            silence.cancel()
            end.cancel()
            await asyncio.gather(silence, end, return_exceptions=True)

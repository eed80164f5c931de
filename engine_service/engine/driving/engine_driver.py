"""EngineDriver: what an engine runs on."""

from collections.abc import Callable
from typing import Protocol

from engine_service.engine.commands import Command, Matchers
from engine_service.engine.driving.engine_work import EngineWork


class EngineDriver(Protocol):
    """Starts an engine's work, brings it its commands, and steps as long as there is work to do.

    Commands take effect in their order, all that have come before the next step begins. See
    EngineThread, which is the one of a server.
    """

    @property
    def thread_id(self) -> int:
        """The identifier of the thread that works, once that has started."""
        ...

    def start(self, work: EngineWork) -> None:
        """Begins."""
        ...

    def put(self, command: Command, matchers: Matchers = ()) -> None:
        """Brings a command; also before the engine has started."""
        ...

    def stop(self) -> None:
        """Ends after the present step."""
        ...

    async def join(self, max_seconds: float) -> bool:
        """Returns when it has ended; False if it has not after so many seconds."""
        ...

    def tell(self, function: Callable[..., object], *arguments: object) -> None:
        """Has a function called on the event loop; for any thread. See `engine_work.Tell`."""
        ...

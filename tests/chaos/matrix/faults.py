"""The faults of the matrix: how each strikes a scene, and what may then be seen."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from grpc import StatusCode

from chaos.checks.limits import DETECTION_SECONDS, WATCHDOG_SECONDS
from chaos.matrix.scene import Scene
from chaos.processes.site import Site

_SLACK = 2.0
"""For a busy machine."""

After = Literal["answers", "goes on", "dies", "drains", "is gone"]
"""What the engine does in the end: `goes on` once it may, or ends with a reason."""
Strike = Callable[[Site, Scene], Awaitable[None]]
_LOST = frozenset({StatusCode.UNAVAILABLE})
_LOST_OR_OK = _LOST | {StatusCode.OK}
_OK = frozenset({StatusCode.OK})
_WITHOUT_OUTPUT = ("queued", "prefill")


@dataclass(frozen=True)
class Fault:
    """What strikes, and what its victims may see."""

    name: str
    strike: Strike
    """Strikes while the engine is held; lets it go on if that is what strikes."""
    codes: frozenset[StatusCode]
    """With which victims may end."""
    codes_without_output: frozenset[StatusCode] | None = None
    """Of those that had produced nothing, where that is another set: they run elsewhere."""
    within: float = 5.0
    """Seconds until every victim has ended."""
    probe_after: float = 0.0
    """Seconds after which a new request is answered as ever."""
    neighbours: frozenset[StatusCode] = _OK
    """With which requests that came to the engine directly may end."""
    bystander: frozenset[StatusCode] = _OK
    """With which a request that shares the victims' session may end, though no victim itself."""
    after: After = "answers"
    frees: bool = False
    """Whether the engine frees its victims within a few steps, before they would end."""
    spares_front_end: bool = True
    waits: bool = False
    """Whether a round is mostly waiting, so that others may run beside it."""

    def codes_of(self, state: str) -> frozenset[StatusCode]:
        """With which the victim in a state may end."""
        if state in _WITHOUT_OUTPUT and self.codes_without_output is not None:
            return self.codes_without_output
        return self.codes


async def _cancel(site: Site, scene: Scene) -> None:
    for call in scene.victims.values():
        call.cancel()


async def _deadline(site: Site, scene: Scene) -> None:
    assert scene.expires_at is not None
    await asyncio.sleep(max(0.0, scene.expires_at - time.monotonic()))


async def _reset(site: Site, scene: Scene) -> None:
    site.caller_proxy.reset()


async def _link_reset(site: Site, scene: Scene) -> None:
    scene.engine.proxy.reset()


async def _half_close(site: Site, scene: Scene) -> None:
    for connection in list(scene.engine.proxy.connections):
        connection.half_close("up")


async def _front_end_killed(site: Site, scene: Scene) -> None:
    site.front_end.signal(signal.SIGKILL)


async def _engine_killed(site: Site, scene: Scene) -> None:
    scene.engine.service.signal(signal.SIGKILL)


async def _stopped(site: Site, scene: Scene) -> None:
    scene.engine.service.signal(signal.SIGSTOP)


async def _hung_step(site: Site, scene: Scene) -> None:
    await scene.engine.service.ask("hang")
    await scene.engine.service.ask("allow", None)


async def _nan(site: Site, scene: Scene) -> None:
    await scene.engine.service.ask("poison", scene.names)
    await scene.release()


async def _drain(site: Site, scene: Scene) -> None:
    scene.engine.service.signal(signal.SIGTERM)
    await scene.release()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("cancel", _cancel, frozenset({StatusCode.CANCELLED}), frees=True),
        Fault("deadline", _deadline, frozenset({StatusCode.DEADLINE_EXCEEDED}), frees=True),
        Fault("reset", _reset, _LOST, frees=True),
        Fault("link reset", _link_reset, _LOST, _OK, bystander=_LOST, frees=True),
        Fault("half-close", _half_close, _LOST, _OK, bystander=_LOST, frees=True),
        Fault(
            "front end killed",
            _front_end_killed,
            _LOST,
            bystander=_LOST,
            frees=True,
            spares_front_end=False,
        ),
        Fault(
            "engine killed",
            _engine_killed,
            _LOST,
            _OK,
            within=8.0,
            probe_after=1.0,
            neighbours=_LOST,
            bystander=_LOST,
            after="is gone",
        ),
        Fault(
            "stopped",
            _stopped,
            _LOST,
            _LOST_OR_OK,
            within=DETECTION_SECONDS + _SLACK,
            probe_after=2.5,
            neighbours=_LOST_OR_OK,
            bystander=_LOST,
            after="goes on",
            waits=True,
        ),
        Fault(
            "hung step",
            _hung_step,
            _LOST,
            _LOST_OR_OK,
            within=WATCHDOG_SECONDS + DETECTION_SECONDS,
            probe_after=WATCHDOG_SECONDS + _SLACK,
            neighbours=_LOST,
            bystander=_LOST,
            after="dies",
            waits=True,
        ),
        Fault("NaN", _nan, frozenset({StatusCode.INTERNAL})),
        Fault("drain", _drain, _OK, within=20.0, after="drains"),
    )
}

"""Round: one scene, what strikes it, and what becomes of everything.

Two engines stand behind the front end. The scene is built while only the first is reachable; then
the second one is, and carries a canary through the same front end. It also takes what the first
one loses.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count

import grpc

from chaos.callers.ask import Ask, Reference, direct, generate, params
from chaos.callers.call import Call, Manner
from chaos.checks.canary import Canary, HealthProbe
from chaos.checks.limits import Limits
from chaos.checks.rest import Rest
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report
from chaos.matrix.faults import Fault
from chaos.matrix.scene import BYSTANDER, NEIGHBOURS, STATES, Scene, SceneError
from chaos.processes.service import ControlError
from chaos.processes.site import Engine, Site, front_end_stub

CANARY = generate("canary", 24, params(300))
PROBE = generate("probe", 8, params(4))
_OK = frozenset({grpc.StatusCode.OK})
_DEADLINE_SECONDS = 2.5
_SCENES = 3
"""Attempts at a scene before it counts as a failure of the harness."""
_names = count()


def new_name(label: str) -> str:
    """A request_id that no other request has."""
    return f"{label} {next(_names)}"


class Round:
    """One scene and what strikes it."""

    def __init__(
        self,
        site: Site,
        fault: Fault,
        references: Mapping[Ask, Reference],
        rest: Rest,
        report: Report,
        limits: Limits,
    ) -> None:
        self._site, self._fault, self._references = site, fault, references
        self._rest, self._report, self._limits = rest, report, limits
        self._attacked, self._spare = site.engines
        self._struck_at = 0.0
        self._must_restart = fault.after in ("dies", "goes on")

    async def run(self) -> None:
        """Adds a verdict for each cell of the fault's row."""
        site = self._site
        if self._fault.after == "dies":
            # The steps that scenes held would have taught its watchdog patience.
            await self._attacked.restart()
            await self._until_ready({self._attacked.proxy.address})
        async with (
            front_end_stub(site.caller_proxy.address) as through_proxy,
            front_end_stub(site.front_end.address) as stub,
        ):
            try:
                scene = await self._scene(through_proxy, stub)
            except SceneError as error:
                self._report.add(self._name("scene"), [str(error)[:500]])
                await self._restore()
                return
            canary = await self._start_canary(stub)
            probe = HealthProbe(site.front_end.address)
            try:
                await self._strike(scene, stub)
            finally:
                await scene.abandon()
                await probe.stop()
                found = await canary.stop()
            self._judge_beside(found, canary, probe)
        await self._restore()

    async def _strike(self, scene: Scene, stub: object) -> None:
        """Strikes, and judges what the engine and its requests do then."""
        self._struck_at = time.monotonic()
        await self._fault.strike(self._site, scene)
        if self._fault.frees:
            self._report.add(self._name("freed"), await scene.until_freed(), quiet=True)
            await scene.release()
        await self._check_new_request(stub)
        elapsed = time.monotonic() - self._struck_at
        await scene.until_ended(self._fault.within * self._limits.patience - elapsed)
        self._judge_victims(scene)
        if self._fault.after == "goes on":
            self._attacked.service.signal(signal.SIGCONT)
            with suppress(ControlError):  # it may have ended, with a reason
                await scene.release()
        found = await self._check_attacked()
        self._must_restart |= bool(found)
        self._report.add(self._name("engine after"), found, quiet=True)
        await self._judge_neighbours(scene)

    def _name(self, part: str) -> str:
        return f"matrix: {self._fault.name}: {part}"

    async def _scene(self, stub: object, own_stub: object) -> Scene:
        """A scene that stands. Raises SceneError."""
        for attempt in range(_SCENES):
            expires_at = None
            if self._fault.name == "deadline":
                expires_at = time.monotonic() + _DEADLINE_SECONDS * (1 + attempt)
            scene = Scene(stub, own_stub, self._attacked, expires_at)
            try:
                await scene.build()
                return scene
            except SceneError:
                await scene.release()
                await scene.abandon()
                if attempt == _SCENES - 1:
                    raise
                await self._rest.problems(self._site, self._limits.detection)
        raise AssertionError

    async def _start_canary(self, stub: object) -> Canary:
        """Connects the spare engine, and lets a canary run there."""
        await self._spare.proxy.start()
        await self._until_ready({self._attacked.proxy.address, self._spare.proxy.address})
        canary = Canary(stub, CANARY, self._references[CANARY], new_name("canary"))
        await canary.until_running()
        return canary

    async def _check_new_request(self, stub: object) -> None:
        """A request that comes after the fault is answered."""
        if not self._fault.spares_front_end:
            return
        pause = self._fault.probe_after - (time.monotonic() - self._struck_at)
        await asyncio.sleep(max(0.0, pause))
        call = Call(stub, PROBE, new_name("probe"), Manner(timeout=self._limits.new_request))
        await call.task
        found = [*problems(call.record, self._references[PROBE], _OK)]
        self._report.add(self._name("new request"), found, quiet=True)

    def _judge_victims(self, scene: Scene) -> None:
        """Tells of each state whether its victim saw what it may see."""
        for state in STATES:
            record = scene.victims[state].record
            reference = scene.reference(state, self._references)
            found = [*problems(record, reference, self._fault.codes_of(state))]
            self._report.add(self._name(state), found, quiet=True)

    async def _check_attacked(self) -> list[str]:
        """Whether the engine that was struck is right again, or has ended with a reason."""
        service, after = self._attacked.service, self._fault.after
        if after == "is gone":
            return []
        if after == "drains":
            code = await service.wait_ended(self._limits.detection)
            return [] if code == 0 else [f"the drained engine's exit code is {code}"]
        if after == "dies":
            code = await service.wait_ended(self._limits.detection)
            return [] if code else [f"the engine whose step hangs has the exit code {code}"]
        found = await self._check_answers(self._attacked)
        if found and after == "goes on" and await service.wait_ended(self._limits.detection):
            return []
        return found

    async def _check_answers(self, engine: Engine) -> list[str]:
        """Whether an engine answers within the limit."""
        name = new_name("direct probe")
        call = Call(engine.stub, direct(PROBE), name, Manner(timeout=self._limits.detection))
        await call.task
        expected = Reference(self._references[PROBE].token_ids, ())
        return [*problems(call.record, expected, _OK)]

    async def _judge_neighbours(self, scene: Scene) -> None:
        """Requests of the same engine, of the victims' session and not of it."""
        bystander = scene.bystander
        assert bystander is not None
        tasks = [call.task for call in (bystander, *scene.neighbours)]
        await asyncio.wait(tasks, timeout=self._limits.detection)
        reference = self._references[BYSTANDER]
        found = [*problems(bystander.record, reference, self._fault.bystander)]
        self._report.add(self._name("same session"), found, quiet=True)
        found = [
            problem
            for call, ask in zip(scene.neighbours, NEIGHBOURS, strict=True)
            for problem in problems(call.record, self._references[ask], self._fault.neighbours)
        ]
        self._report.add(self._name("neighbours"), found, quiet=True)

    def _judge_beside(self, found: list[str], canary: Canary, probe: HealthProbe) -> None:
        """The canary on the other engine, and the front end's health."""
        if not self._fault.spares_front_end:
            return
        note = f"gap {canary.longest_gap:.2f} s, health {probe.longest:.2f} s"
        if canary.longest_gap > self._limits.canary_gap:
            found.append(f"the canary waited {canary.longest_gap:.2f} s")
        self._report.add(self._name("canary"), found, note, quiet=True)
        slow = probe.longest > self._limits.health
        late = [f"health took {probe.longest:.2f} s"] if slow else []
        self._report.add(self._name("health"), late, note, quiet=True)

    async def _restore(self) -> None:
        """Replaces what has ended, and checks that nothing is held that was not before."""
        site = self._site
        self._spare.proxy.refuse()
        if self._attacked.service.exit_code is not None or self._must_restart:
            await self._attacked.restart()
        if site.front_end.exit_code is not None:
            await site.restart_front_end()
        try:
            await self._until_ready({self._attacked.proxy.address})
            found = await self._rest.problems(site, self._limits.detection)
        except TimeoutError:
            ready = await site.front_end.ask("ready_engines")
            found = [
                f"the front end's engines are {ready}, {self._limits.detection:g} s afterwards"
            ]
            await self._attacked.restart()
            await site.restart_front_end()
        self._report.add(self._name("at rest"), found, quiet=True)

    async def _until_ready(self, addresses: set[str]) -> None:
        """Returns when the front end knows these engines. Raises TimeoutError."""
        async with asyncio.timeout(self._limits.detection):
            while {*await self._site.front_end.ask("ready_engines")} != addresses:
                await asyncio.sleep(0.05)

"""Runs the matrix: scene after scene, each struck by one fault, and tells what became of it.

Two engines stand behind the front end. The scene is built while only the first is reachable; then
the second one is, and carries a canary through the same front end. It also takes what the first
one loses.
"""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from itertools import count

import grpc

from chaos.callers.ask import Ask, Reference, direct, generate, params
from chaos.callers.call import Call, Manner, reference_of
from chaos.checks.canary import Canary, HealthProbe
from chaos.checks.limits import DETECTION_SECONDS, Limits, watchdog_flags
from chaos.checks.rest import Rest, at_rest
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report
from chaos.matrix.faults import FAULTS, Fault
from chaos.matrix.scene import ASKS, ENGINE_FLAGS, NEIGHBOURS, STATES, Scene, SceneError
from chaos.processes.site import Engine, Site, front_end_stub, running_site

SITE_FLAGS = ((*ENGINE_FLAGS, *watchdog_flags()), watchdog_flags())
"""Of a site's engines: the one that is struck, and the spare one."""
CANARY = generate("canary", 24, params(300))
PROBE = generate("probe", 8, params(4))
_OK = frozenset({grpc.StatusCode.OK})
_DEADLINE_SECONDS = 2.5
_SCENES = 3
"""Attempts at a scene before it counts as a failure of the harness."""
_SETTLE_SECONDS = 1.0
"""Until the front end waits for the engine that is gone, and does nothing else."""
_names = count()


async def run_matrix(report: Report, faults: Sequence[str], repeats: int, limits: Limits) -> None:
    """Strikes with each fault so often, on two sites at once."""
    async with asyncio.TaskGroup() as lanes:
        for waits in (False, True):
            lane = [name for name in faults if FAULTS[name].waits is waits]
            if lane:
                lanes.create_task(_run_lane(report, lane, repeats, limits))


async def _run_lane(report: Report, faults: Sequence[str], repeats: int, limits: Limits) -> None:
    async with running_site(*SITE_FLAGS) as site:
        await strike(site, report, list(faults) * repeats, limits)


async def strike(site: Site, report: Report, faults: Sequence[str], limits: Limits) -> None:
    """Strikes a site of SITE_FLAGS with one fault after the other."""
    references = await _references(site)
    site.engines[1].proxy.refuse()
    await asyncio.sleep(_SETTLE_SECONDS)
    rest = await at_rest(site)
    for name in faults:
        started = time.monotonic()
        await Round(site, FAULTS[name], references, rest, report, limits).run()
        print(f"matrix: {name}: {time.monotonic() - started:.1f} s", flush=True)


async def _references(site: Site) -> dict[Ask, Reference]:
    """What every request answers undisturbed; also brings the front end's connections about."""
    async with front_end_stub(site.front_end.address) as stub:
        asks = (*ASKS.values(), CANARY, PROBE)
        found = {ask: await reference_of(stub, ask, f"reference {next(_names)}") for ask in asks}
    for ask in NEIGHBOURS:
        name = f"reference {next(_names)}"
        found[ask] = await reference_of(site.engines[0].stub, ask, name)
    await site.engines[1].service.ask("pace", 0.01)
    return found


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
        self._must_restart = fault.name in ("hung step", "stopped")

    async def run(self) -> None:
        """Adds a verdict for each cell of the fault's row."""
        site = self._site
        if self._fault.name == "hung step":
            # The steps that scenes held would have taught its watchdog patience.
            await self._attacked.restart()
            await self._until_ready({self._attacked.proxy.address})
        async with (
            front_end_stub(site.caller_proxy.address) as through_proxy,
            front_end_stub(site.front_end.address) as stub,
        ):
            try:
                scene = await self._scene(through_proxy)
            except SceneError as error:
                self._report.add(self._name("scene"), [str(error)[:500]])
                await self._restore()
                return
            canary = await self._start_canary(stub)
            probe = HealthProbe(site.front_end.address)
            self._struck_at = time.monotonic()
            await self._fault.strike(site, scene)
            await self._check_new_request(stub)
            await scene.until_ended(self._fault.within - (time.monotonic() - self._struck_at))
            self._judge_victims(scene)
            await self._check_attacked(scene)
            await self._judge_neighbours(scene)
            await scene.abandon()
            await probe.stop()
            self._judge_beside(await canary.stop(), canary, probe)
        await self._restore()

    def _name(self, part: str) -> str:
        return f"matrix: {self._fault.name}: {part}"

    async def _scene(self, stub: object) -> Scene:
        """A scene that stands. Raises SceneError."""
        for attempt in range(_SCENES):
            expires_at = None
            if self._fault.name == "deadline":
                expires_at = time.monotonic() + _DEADLINE_SECONDS * (1 + attempt)
            scene = Scene(stub, self._attacked, expires_at)
            try:
                await scene.build()
                return scene
            except SceneError:
                await scene.release()
                await scene.abandon()
                if attempt == _SCENES - 1:
                    raise
                await self._rest.problems(self._site, DETECTION_SECONDS)
        raise AssertionError

    async def _start_canary(self, stub: object) -> Canary:
        """Connects the spare engine, and lets a canary run there."""
        await self._spare.proxy.start()
        await self._until_ready({self._attacked.proxy.address, self._spare.proxy.address})
        canary = Canary(stub, CANARY, self._references[CANARY], f"canary {next(_names)}")
        await canary.until_running()
        return canary

    async def _check_new_request(self, stub: object) -> None:
        """A request that comes after the fault is answered."""
        if not self._fault.spares_front_end:
            return
        pause = self._fault.probe_after - (time.monotonic() - self._struck_at)
        await asyncio.sleep(max(0.0, pause))
        call = Call(stub, PROBE, f"probe {next(_names)}", Manner(timeout=self._limits.new_request))
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

    async def _check_attacked(self, scene: Scene) -> None:
        """The engine that was struck is right again, or has ended with a reason."""
        service, found = self._attacked.service, []
        if self._fault.name == "drain":
            code = await service.wait_ended(DETECTION_SECONDS)
            found = [] if code == 0 else [f"the drained engine's exit code is {code}"]
        elif self._fault.name == "hung step":
            code = await service.wait_ended(DETECTION_SECONDS)
            found = [] if code else [f"the engine whose step hangs has the exit code {code}"]
        elif self._fault.name == "stopped":
            service.signal(signal.SIGCONT)
            await scene.release()
        if service.exit_code is None and not found:
            found = await self._check_answers(self._attacked)
        elif service.exit_code is not None and self._fault.name in ("NaN", "stopped"):
            if not service.exit_code:
                found = ["the engine ended with the exit code 0"]
            if self._fault.name == "NaN":
                found = [f"the engine ended with the exit code {service.exit_code}"]
        self._must_restart |= bool(found)
        self._report.add(self._name("engine after"), found, quiet=True)

    async def _check_answers(self, engine: Engine) -> list[str]:
        """Whether an engine answers within the limit."""
        name = f"direct probe {next(_names)}"
        call = Call(engine.stub, direct(PROBE), name, Manner(timeout=DETECTION_SECONDS))
        await call.task
        expected = Reference(self._references[PROBE].token_ids, ())
        return [*problems(call.record, expected, _OK)]

    async def _judge_neighbours(self, scene: Scene) -> None:
        """Requests of the same engine that came another way."""
        await asyncio.wait([call.task for call in scene.neighbours], timeout=DETECTION_SECONDS)
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
            found = await self._rest.problems(site, DETECTION_SECONDS)
        except TimeoutError:
            ready = await site.front_end.ask("ready_engines")
            found = [f"the front end's engines are {ready}, {DETECTION_SECONDS:g} s afterwards"]
            await self._attacked.restart()
            await site.restart_front_end()
        self._report.add(self._name("at rest"), found, quiet=True)

    async def _until_ready(self, addresses: set[str]) -> None:
        """Returns when the front end knows these engines. Raises TimeoutError."""
        async with asyncio.timeout(DETECTION_SECONDS):
            while {*await self._site.front_end.ask("ready_engines")} != addresses:
                await asyncio.sleep(0.05)

"""World: one run of a scenario, from its first connection to the last book that must balance."""

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from simulation import books
from simulation.callers import Caller, Record, Trace
from simulation.determinism import determined, where
from simulation.engine_host import RELEASE_SECONDS, EngineHost
from simulation.front_end import FrontEnd, start_front_end
from simulation.health import Health, Trouble, too_long, undue
from simulation.judge import Judge
from simulation.messages import prompt_of
from simulation.moves import Moves
from simulation.network import Network
from simulation.scenario import KILLER, POISON, FaultSpec, RequestSpec, Scenario
from simulation.tags import Tag, tag_of_prompt
from simulation.virtual_loop import Process, StalledError, VirtualLoop
from tokenizer_service.engines.migration.numerics import Migrate

# Virtual seconds after the last arrival and the last fault within which everything has ended, and
# then until nothing is left of it: long if somebody has to be given up as silent.
_PATIENCE = 90.0
_SETTLE, _SHORT_SETTLE = 14.0, 3.0
_DRAIN_SECONDS = 2.0
_MAX_CALLBACKS = 200_000
_CALLBACKS_A_REQUEST = 20_000


@dataclass
class Result:
    """What a run has shown."""

    scenario: Scenario
    complaints: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Faults by kind, and what was covered."""
    trace: Trace = field(default_factory=Trace)
    seconds: float = 0.0
    """Of the virtual clock."""

    @property
    def num_tokens(self) -> int:
        """Tokens that callers have received."""
        return sum(record.num_tokens for record in self.records)


class World:
    """Everything of one run."""

    def __init__(self, scenario: Scenario, keep_trace: bool = False) -> None:
        self.scenario = scenario
        num_callbacks = _MAX_CALLBACKS + _CALLBACKS_A_REQUEST * len(scenario.requests)
        self.loop = VirtualLoop(num_callbacks)
        self.begun = self.loop.time()
        self.result = Result(scenario, trace=Trace(keep_trace))
        self.health = Health([each.numerics for each in scenario.engines])
        self.hosts: list[EngineHost] = []
        self.front_ends: list[FrontEnd] = []
        forked = {tag_of_prompt(prompt_of(each)) for each in scenario.requests if each.fork}
        self.moves = Moves(self.result.counts, self._may_be_blamed, forked)
        self._left: dict[Tag, float] = {}
        self._dead: set[int] = set()
        """Front ends that are."""
        self._callers: list[Caller] = []
        self._records: list[Record] = []
        self._calls: list[asyncio.Task[None]] = []
        self._rng = Random(scenario.seed)
        self._slowest_step = max(each.step_seconds for each in scenario.engines)

    def run(self) -> Result:
        """Runs it to its end."""
        result = self.result
        network = Network(self.loop, Random(self._rng.getrandbits(32)), self.scenario.max_delay)
        self.network = network
        collects = gc.isenabled()
        gc.disable()  # what it ends would end at other times in another run
        try:
            with determined(self.loop.time, self._rng.getrandbits(32)) as logged:
                self.loop.run_all(self._run())
        except StalledError as error:
            waiting = [record.name for record in self._records if record.ended is None]
            result.complaints.append(f"stalled: {error}; {waiting} wait")
        finally:
            if collects:
                gc.enable()
        result.complaints += [f"logged: {each}" for each in logged]
        for message, raised in self.loop.errors:
            result.complaints.append(f"callback: {message}: {raised!r}{where(raised)}")
        result.records = self._records
        result.seconds = self.loop.time() - self.begun
        return result

    async def _run(self) -> None:
        scenario, loop = self.scenario, self.loop
        addresses = [f"engine-{number}:1" for number in range(len(scenario.engines))]
        for number, (address, setting) in enumerate(zip(addresses, scenario.engines, strict=True)):
            seed = scenario.seed * 31 + number
            host = EngineHost(self.network, self.moves, address, setting, seed)
            host.dies_of, host.poisoned = (KILLER,), (POISON,)
            host.on_death = partial(self._host_died, host)
            host.left, host.on_overrun = self._left, partial(self._note_overrun, number)
            self.hosts.append(host)
            host.start()
        for number in range(scenario.num_front_ends):
            self.front_ends.append(self._new_front_end(number))
        for request in scenario.requests:
            loop.call_at(self.begun + request.at, self._begin, request)
        for fault in scenario.faults:
            loop.call_at(self.begun + fault.at, self._break, fault)
        await self._until_ended()
        while self._dead or not all(host.is_up and not host.is_draining for host in self.hosts):
            await asyncio.sleep(0.5)
        await asyncio.sleep(_SETTLE if self.health.has_cuts else _SHORT_SETTLE)
        self.result.complaints += books.complaints(self.hosts, self.front_ends)
        await self._stop()

    def _new_front_end(self, number: int) -> FrontEnd:
        addresses = [host.address for host in self.hosts]
        migrate = Migrate(self.scenario.migrate)
        return start_front_end(self.loop, self.network, number, addresses, migrate)

    async def _until_ended(self) -> None:
        """Waits for every call, and judges them."""
        requests, faults = self.scenario.requests, self.scenario.faults
        last = max((each.at for each in requests), default=0.0)
        last = max(last, *(each.at + each.seconds for each in faults), 0.0)
        deadline = self.begun + last + _PATIENCE
        await asyncio.sleep(max(0.0, self.begun + last + 0.1 - self.loop.time()))
        num_seen = -1
        while num_seen != len(self._calls) and self._calls:
            num_seen = len(self._calls)
            await asyncio.wait(self._calls, timeout=max(0.0, deadline - self.loop.time()))
        judge = Judge()
        for record in self._records:
            if record.ended is None:
                self.result.complaints.append(f"{record.name}: has not ended")
                continue
            self.result.counts[f"end: {_end_of(record)}"] += 1
            if record.num_breaks:
                self.result.counts["moved by a resume"] += record.num_breaks
            complaint = ""
            if record.error is not None and not record.left:
                complaint = undue(record, self.health, self.hosts)
            elif not record.left:
                complaint = too_long(record, self.health, self._slowest_step)
            if complaint:
                judge.complaints.append(f"{record.name}: {complaint}")
            judge.judge(record)
        self.result.complaints += judge.complaints + self.moves.complaints

    async def _stop(self) -> None:
        for front_end in self.front_ends:
            await front_end.process.start(front_end.pool.close())
        for host in self.hosts:
            host.on_death = lambda: None
            host.kill()

    def _begin(self, spec: RequestSpec) -> None:
        record = Record(spec, spec.kind)
        self._start_call(record)

    def _start_call(self, record: Record) -> None:
        self._records.append(record)
        caller = Caller(record, self.result.trace, self._find_front_end)
        self._callers.append(caller)
        if record.kind != "fork" and record.spec.fork is not None:
            caller.on_fork = lambda: self._start_call(Record(record.spec, "fork"))
        call = self.loop.create_task(caller.run())
        call.add_done_callback(lambda _: self._note_end(record))
        self._calls.append(call)

    def _find_front_end(self, number: int) -> FrontEnd | None:
        """The front end of a number, or else the next one that lives."""
        count = len(self.front_ends)
        found = (self.front_ends[(number + more) % count] for more in range(count))
        return next((each for each in found if each.number not in self._dead), None)

    def _note_end(self, record: Record) -> None:
        """Watches for a while that an engine computes nothing more for a caller who has left."""
        tag = tag_of_prompt(prompt_of(record.spec))
        if record.left and record.spec.fork is None and record.kind != "score":
            self._left[tag] = self.loop.time()
            self.loop.call_later(6 * RELEASE_SECONDS, self._left.pop, tag, None)

    def _may_be_blamed(self, tag: Tag, died: float) -> bool:
        """Whether an engine that has died is known to have computed a request, and nothing else
        is wrong."""
        for record in self._records:
            if tag_of_prompt(prompt_of(record.spec)) == tag and record.kind != "fork":
                known = record.last_token is not None and record.last_token < died
                troubles = self.health.of(record.front_end, died - 4.0, self.loop.time())
                return known and all(each.is_death for each in troubles)
        return False

    def _note_overrun(self, number: int, tag: Tag) -> None:
        specs = (each.spec for each in self._records)
        front_ends = {each.front_end for each in specs if tag_of_prompt(prompt_of(each)) == tag}
        left, now = self._left.pop(tag), self.loop.time()
        troubles = [each for name in front_ends for each in self.health.of(name, left - 2.0, now)]
        if not any(each.engine == number for each in troubles):
            self.result.complaints.append(f"engine {number} computes {tag}, whose caller has left")

    # Faults.

    def _break(self, fault: FaultSpec) -> None:
        """Lets something go wrong."""
        host = self.hosts[fault.engine]
        front_end = self.front_ends[fault.front_end]
        self.result.counts[f"fault: {fault.kind}"] += 1
        self.result.trace.add(self.loop.time(), fault.kind, fault.engine, fault.front_end)
        ends = front_end.name, host.address
        if fault.kind == "kill":
            host.kill(fault.loses)
        elif fault.kind == "engine failure":
            host.fails_next = True
        elif fault.kind == "drain":
            trouble = self.health.begin(fault.engine, None, self.loop.time())
            trouble.is_drain = True
            host.drain(fault.seconds)
            self.loop.call_later(0.5, self._restart, host, trouble)
            self.loop.call_later(_DRAIN_SECONDS, self._check_drain, host, host.process)
        elif fault.kind == "hang":
            self._hang(host, fault)
        elif fault.kind == "partition":
            self.network.cut(*ends)
            self._later(fault, fault.front_end, self.network.heal, *ends)
        elif fault.kind == "drop":
            self.network.break_line(*ends, fault.loses)
            self._later(fault, fault.front_end)
        elif fault.kind == "front end stands still":
            front_end.process.freeze()
            for number in range(len(self.hosts)):  # each may give the front end up
                self._later(replace(fault, engine=number), fault.front_end, front_end.process.thaw)
        elif fault.kind == "calls break":
            for caller in self._callers[:: 1 + fault.engine]:
                if caller.front_end is front_end:
                    caller.break_off()
        elif fault.kind == "front end dies":
            self._kill_front_end(front_end, fault)
        elif fault.kind == "clock jump":
            self.health.jumps.append((self.loop.time(), fault.seconds))
            self.loop.jump(fault.seconds)

    def _check_drain(self, host: EngineHost, process: Process) -> None:
        """An engine that drains has ended if others could go on with all that it had."""
        if host.process is not process or not host.is_up:
            return
        now, number = self.loop.time(), self.hosts.index(host)
        if any(now - at <= _DRAIN_SECONDS + by for at, by in self.health.jumps):
            return
        for front_end in range(len(self.front_ends)):
            troubles = self.health.of(front_end, now - 4.0, now)
            ill = {each.engine for each in troubles} | {number}
            others = [each for each in troubles if each.engine != number or not each.is_drain]
            if others or len(ill) == len(self.hosts):
                return
        if len({each.numerics for each in self.scenario.engines}) > 1:
            return
        self.result.complaints.append(f"engine {number} has not drained in {_DRAIN_SECONDS} s")

    def _kill_front_end(self, front_end: FrontEnd, fault: FaultSpec) -> None:
        """Its callers go on elsewhere; another process takes its place after a while."""
        if front_end.number in self._dead:
            return
        self._dead.add(front_end.number)
        self.health.absences.append((self.loop.time(), fault.seconds))
        for caller in self._callers:
            if caller.front_end is front_end:
                caller.break_off()
        self.network.leave(front_end.name)
        self.loop.call_soon(front_end.process.kill)
        for number in range(len(self.hosts)):
            self._later(replace(fault, engine=number), front_end.number)
        self.loop.call_later(fault.seconds, self._replace_front_end, front_end.number)

    def _replace_front_end(self, number: int) -> None:
        self.front_ends[number] = self._new_front_end(number)
        self.loop.call_later(0.5, self._dead.discard, number)

    def _hang(self, host: EngineHost, fault: FaultSpec) -> None:
        host.process.freeze()
        self._later(fault, None, host.process.thaw)

    def _later(self, fault: FaultSpec, front_end: int | None, *mend: object) -> None:
        """Has a trouble end after a while."""
        trouble = self.health.begin(fault.engine, front_end, self.loop.time())

        def end() -> None:
            trouble.ends = self.loop.time()
            if mend:
                mend[0](*mend[1:])  # type: ignore[operator]

        self.loop.call_later(fault.seconds, end)

    def _host_died(self, host: EngineHost) -> None:
        trouble = self.health.begin(self.hosts.index(host), None, self.loop.time(), True)
        self.result.counts["fault: engine death"] += 1
        self.loop.call_later(self._rng.choice((0.1, 0.5, 1.0, 4.0)), self._restart, host, trouble)

    def _restart(self, host: EngineHost, trouble: Trouble) -> None:
        if host.is_up and host.is_draining:
            self.loop.call_later(0.5, self._restart, host, trouble)
            return
        host.start()
        trouble.ends = self.loop.time()


def _end_of(record: Record) -> str:
    """How it has ended, in words."""
    if record.left:
        return "caller left"
    return "complete" if record.error is None else type(record.error).__name__

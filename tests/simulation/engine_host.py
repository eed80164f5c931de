"""EngineHost: one engine service at one address, which can be started, drained, killed, frozen.

The scheduler, LLMEngine, AsyncEngine, its sessions and its servicer are the real ones. A task takes
the place of the engine's thread, and steps take virtual time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random

from grpc_health.v1 import health_pb2

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ScheduledSequence
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Matchers, StreamCommand
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.matcher_maker import MatcherMaker
from engine_service.servicer import EngineServicer
from folovllm.errors import UnavailableError
from folovllm.liveness import DEFAULT_LIVENESS
from folovllm.model_info import ModelInfo
from folovllm.serving.active_calls import ActiveCalls
from folovllm.v1 import engine_service_pb2, types_pb2
from simulation.grammars import SimulatedCompiler
from simulation.moves import Moves
from simulation.network import Commands, Events, Network
from simulation.runner import OverlappingRunner, SimulatedRunner
from simulation.tags import Tag, last_id, tag_of
from simulation.tokens import EOS_ID, VOCAB_SIZE
from simulation.virtual_loop import Process
from support.fakes.inline_driver import InlineDriver

MAX_MODEL_LEN = 96
BLOCK_SIZE = 4
RELEASE_SECONDS = 0.5
"""From when a caller leaves until no step computes the request any more."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class EngineSetting:
    """How one engine differs from the others."""

    num_blocks: int = 48
    max_num_seqs: int = 6
    max_num_batched_tokens: int = 32
    prefix_caching: bool = True
    speculation: str = "none"
    overlaps: bool = False
    target_queue_seconds: float | None = 600.0
    """None: requests may be refused for load."""
    numerics: str = "same"
    step_seconds: float = 0.01
    grammar_seconds: float = 0.0

    def config(self) -> EngineConfig:
        """As the engine is configured."""
        return EngineConfig(
            ModelConfig(),
            CacheConfig(BLOCK_SIZE, self.num_blocks, enable_prefix_caching=self.prefix_caching),
            SchedulerConfig(
                self.max_num_seqs,
                self.max_num_batched_tokens,
                target_queue_seconds=self.target_queue_seconds,
                speculation=self.speculation,
            ),
        )

    def info(self) -> ModelInfo:
        """As the engine describes itself."""
        return ModelInfo(
            model_id="simulated",
            vocab_size=VOCAB_SIZE,
            eos_token_ids=(EOS_ID,),
            max_model_len=MAX_MODEL_LEN,
            num_kv_blocks=self.num_blocks,
            block_size=BLOCK_SIZE,
            device="cpu",
            tokenizer_fingerprint="simulated",
            max_n=16,
            replica_fingerprint="replica",
            numerics_fingerprint=self.numerics,
        )


class _MatcherMaker(MatcherMaker):
    """Compiles in this process; others see that it takes a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def warm_up(self, engine: LLMEngine) -> None:
        """Nothing has to start."""

    async def make(self, engine: LLMEngine, command: StreamCommand, caller: str) -> Matchers:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        return command.make_matchers(engine)


class StepError(BaseException):
    """A step fails with all that is in it, as if a library had panicked."""


class _Context:
    """What a servicer asks of a call."""

    def peer(self) -> str:
        return "simulated"


class EngineHost:
    """What runs at an address; after each end it can be started again."""

    def __init__(
        self, network: Network, moves: Moves, address: str, setting: EngineSetting, seed: int
    ) -> None:
        self.address = address
        self.setting = setting
        self.is_up = False
        """Whether a process runs there."""
        self.is_draining = False
        self.dies_of: Collection[int] = ()
        """Last ids of prompts whose computing ends the process."""
        self.poisoned: Collection[int] = ()
        """Those whose computing fails them alone."""
        self.fails_next = False
        """Whether the next step fails, and with it the engine."""
        self.deaths: list[tuple[float, list[Tag]]] = []
        """When it was lost, and whom the last step computed that had begun."""
        self.left: dict[Tag, float] = {}
        """Requests that nobody waits for any more, and since when."""
        self.on_overrun: Callable[[Tag], None] = lambda _: None
        """Is called when one of them is still computed long after."""
        self.on_death: Callable[[], None] = lambda: None
        """Is called when the process is lost."""
        self._loop = network.loop
        self._network = network
        self._moves = moves
        self._rng = Random(seed)
        self._last_step: Sequence[ScheduledSequence] = ()

    def start(self) -> None:
        """Starts the process, unless one runs."""
        if self.is_up:
            return
        self.process = Process(self._loop, self.address)
        self.is_up, self.is_draining = True, False
        self._last_step, self.fails_next = (), False
        self.process.call(self._build)
        self.process.start(self._run())

    def kill(self, lose: bool = True) -> None:
        """Ends the process at once; what it has sent may be lost with it."""
        if not self.is_up:
            return
        self.is_up = False
        self._note_death()
        self._network.stop_listening(self.address, lose)
        self.process.kill()

    def drain(self, grace: float) -> None:
        """Begins to end as after SIGTERM."""
        if self.is_up and not self.is_draining:
            self.is_draining = True
            self.process.start(self._drain(grace))

    def _build(self) -> None:
        setting, rng = self.setting, self._rng
        self.engine = AsyncEngine(
            self._build_engine,
            setting.config().scheduler,
            clock=self._loop.time,
            driver=InlineDriver(lambda _: setting.step_seconds * (0.5 + rng.random())),
            matcher_maker=_MatcherMaker(setting.grammar_seconds),
        )
        self.active_calls = ActiveCalls()
        self.servicer = EngineServicer(self.engine, self.active_calls, DEFAULT_LIVENESS)
        self._status_changed, self._watches_end = asyncio.Event(), asyncio.Event()

    def _build_engine(self) -> LLMEngine:
        kind = OverlappingRunner if self.setting.overlaps else SimulatedRunner
        self.llm_engine = LLMEngine(
            kind(BLOCK_SIZE, self._watch, self.poisoned, self.setting.numerics),
            self.setting.config(),
            self.setting.info(),
            grammar_compiler=SimulatedCompiler(),  # type: ignore[arg-type]
            clock=self._loop.time,
        )
        return self.llm_engine

    async def _run(self) -> None:
        await self.engine.start()
        self._network.servers[self.address] = self
        await self.engine.wait_died()
        if not self.is_draining:
            self.is_draining = True
            self._note_death()
            await self._drain(1.0)

    async def _drain(self, grace: float) -> None:
        """As `GrpcServer.drain` and what follows it."""
        changed, self._status_changed = self._status_changed, asyncio.Event()
        changed.set()
        await self.active_calls.drain(grace)
        await asyncio.sleep(0.1)
        self._watches_end.set()
        await asyncio.sleep(0.05)
        await self.engine.stop(1.0)
        self._loop.call_soon(self._end, context=self._network.context)

    def _end(self) -> None:
        if self.is_up:
            self.is_up = False
            self._network.stop_listening(self.address, lose=False)
            self.process.kill()

    def _watch(self, scheduled: Sequence[ScheduledSequence]) -> None:
        self._last_step = scheduled
        if self._moves.awaits(self.address):
            self._moves.begun(self.address, map(tag_of, scheduled))
        if any(last_id(part) in self.dies_of for part in scheduled):
            self._network.context.run(self.kill)
            raise StepError
        if self.left:
            self._check_left(scheduled)
        if self.fails_next and self.address in self._network.servers:
            self.fails_next = False
            raise StepError

    def _check_left(self, scheduled: Sequence[ScheduledSequence]) -> None:
        """Notes what should have been released."""
        now = self._loop.time()
        for part in scheduled:
            tag = tag_of(part)
            if now - self.left.get(tag, now) > RELEASE_SECONDS:
                self.on_overrun(tag)

    def _note_death(self) -> None:
        self.on_death()
        now, tags = self._loop.time(), [*map(tag_of, self._last_step)]
        self.deaths.append((now, tags))
        self._moves.died(self.address, tags, now)

    # What the network finds here.

    def take(self, command: engine_service_pb2.SessionCommand) -> None:
        """A session is about to read a command."""
        if command.HasField("moved"):
            self._moves.taken(self.address, command, self._loop.time())
        elif command.HasField("generate"):
            self._moves.begun_anew(self.address, command)

    async def session(self, commands: Commands) -> Events:
        async for events in self.servicer.Session(commands, _Context()):  # type: ignore[arg-type]
            yield events

    async def statuses(self) -> AsyncIterator[int]:
        changed = self._status_changed
        yield _NOT_SERVING if self.is_draining else _SERVING
        await changed.wait()
        yield _NOT_SERVING
        await self._watches_end.wait()
        raise UnavailableError("the server is shutting down")

    async def model_info(self, request: types_pb2.GetModelInfoRequest) -> types_pb2.ModelInfo:
        with self.active_calls.entered(stream=False):
            return await self.servicer.GetModelInfo(request, _Context())  # type: ignore[arg-type]

    async def score(self, request: types_pb2.ScoreRequest) -> types_pb2.ScoreResponse:
        with self.active_calls.entered(stream=False):
            return await self.servicer.Score(request, _Context())  # type: ignore[arg-type]

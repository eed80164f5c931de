"""EnginePool: the engines that requests may go to, and the streams that run there.

A stream outlives its engine: what fails, hangs or drains, or has no room, is left for another one,
as `mover` says.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from folovllm.errors import (
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    UnavailableError,
)
from folovllm.liveness import DEFAULT_LIVENESS, LivenessConfig
from folovllm.serving.background_tasks import start_background
from folovllm.serving.request_names import check_name
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.connection import Connection, GrpcConnection
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.migration.attempts import Failure
from tokenizer_service.engines.migration.numerics import Migrate
from tokenizer_service.engines.migration.origin import ForkOrigin, Origin
from tokenizer_service.engines.mover import Mover, begin
from tokenizer_service.engines.part import Part
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.engines.routing.choice import EngineChoice
from tokenizer_service.engines.stream import EngineStream
from tokenizer_service.engines.wire_names import other_name

Command = engine_service_pb2.SessionCommand


class EnginePool:
    """Several engines of one model. Belongs to the event loop that it is made in."""

    def __init__(
        self,
        addresses: Sequence[str],
        expected: Fingerprints,
        replicas: Replicas | None = None,
        liveness: LivenessConfig = DEFAULT_LIVENESS,
        *,
        migrate: Migrate = Migrate.EXACT,
        on_finished: Callable[[EngineStream], None] = lambda _: None,
        connect: Callable[[str], Connection] = GrpcConnection,
    ) -> None:
        """`replicas` may be shared with other processes; without them the first engine decides.

        `on_finished` is told of each stream of `generate` or `fork` whose outputs have all come,
        and `connect` opens the connections.
        """
        self._replicas = replicas or Replicas()
        self._engines = [
            EngineClient(address, expected, self._replicas, liveness, connect)
            for address in addresses
        ]
        self._known_replica = self._replicas.fingerprint
        self._choice = EngineChoice(self._engines, self._replicas)
        self._migrate = migrate
        self._mover = Mover(self._choice, migrate, liveness.heartbeat / 4)
        self._on_finished = on_finished
        self._streams: dict[str, EngineStream] = {}  # those that run, by name
        self._followers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    @property
    def engines(self) -> Sequence[EngineClient]:
        """All of them, ready or not."""
        return self._engines

    @property
    def ready(self) -> bool:
        """Whether any engine accepts requests."""
        return self._choice.any_ready

    def start(self) -> None:
        """Begins to connect, and follows the engines until close."""
        self._followers = [
            start_background(engine.follow(self._notify), f"follow {engine.address}")
            for engine in self._engines
        ]

    async def close(self) -> None:
        """Stops following and closes every channel; streams that still run fail."""
        for stream in [*self._streams.values()]:
            stream.end(UnavailableError("the service ends"))
        self._mover.close()
        for follower in self._followers:
            follower.cancel()
        await asyncio.gather(*self._followers, return_exceptions=True)
        for engine in self._engines:
            await engine.close()

    def find(self, name: str) -> EngineStream | None:
        """The stream of that name, if it runs."""
        return self._streams.get(name)

    def generate(self, command: Command, numerics_fingerprint: str | None = None) -> EngineStream:
        """Begins the request of a command at the engine that suits it best.

        The command must not be changed afterwards. If it goes on with output, that comes from
        engines of `numerics_fingerprint`. Raises as `model_info` does, InvalidRequestError if the
        id is invalid or in use or the request is too large, and UnavailableError if no engine goes
        on with it.
        """
        request = command.generate
        self._check_name("request_id", request.request_id)
        origin = Origin(command, self._now())
        if numerics_fingerprint is None:
            engine = self._choice.first(origin.name, request.prompt_token_ids, request.cache_salt)
            is_exact, wire_name = True, origin.name
        else:
            engine, is_exact = self._resumed_at(origin, numerics_fingerprint)
            # The engine may still run it for another service, whose end it has not noticed yet.
            wire_name = other_name(origin.name)
        stream = EngineStream(origin, self._forget)
        part = Part(stream, range(len(stream.progress)), self._mover.fail)
        part.exact = is_exact
        begin(part, command, engine, wire_name)
        self._streams[origin.name] = stream
        return stream

    def generate_at(self, command: Command, address: str) -> EngineStream:
        """Begins a request at that engine, which is its only one. Raises as `generate`."""
        engine = next((each for each in self._choice.ready() if each.address == address), None)
        if engine is None:
            raise UnavailableError(f"engine {address} is not ready")
        check_name("request_id", command.generate.request_id)
        stream = EngineStream(Origin(command, self._now()))
        part = Part(stream, range(len(stream.progress)), _end)
        part.may_move = False
        begin(part, command, engine, stream.name)
        return stream

    def fork(self, command: Command) -> EngineStream:
        """Begins the branches of a request that came through here, where that runs.

        Raises NotFoundError if it runs nowhere, and as `generate` for the fork_id.
        """
        fork = command.fork
        parent, index = self._streams.get(fork.request_id), fork.index
        if parent is None or index >= len(parent.progress) or parent.progress[index].is_over:
            raise NotFoundError(f"no request {fork.request_id} with an index {index} runs here")
        self._check_name("fork_id", fork.fork_id)
        origin = ForkOrigin(
            command, self._now(), parent.origin, parent.inherited(), parent.progress[index]
        )
        stream = EngineStream(origin, self._forget)
        part = Part(stream, range(len(fork.branches)), self._mover.fail)
        trunk = next(each for each in parent.parts if index in each.indexes)
        assert isinstance(trunk, Part)
        home = trunk.home
        if home is not None and (home.takes_requests or not self.ready):
            part.begin_at(home, trunk.numerics)
            home.fork(part, command, origin.name, trunk)
            self._streams[origin.name] = stream
        else:
            self._streams[origin.name] = stream
            part.numerics = trunk.numerics
            self._mover.begin_fork(part)
        return stream

    async def score(
        self,
        request: types_pb2.ScoreRequest,
        timeout: float | None,  # noqa: ASYNC109 - sent to the engine with the call
    ) -> types_pb2.ScoreResponse:
        """Log-probabilities of continuations. Raises FolovError; cancelling it cancels the call.

        `timeout` is what is left of the caller's deadline, in seconds.
        """
        name, prompt, salt = request.request_id, request.token_ids.ids, request.cache_salt
        engine = self._choice.first(name, prompt, salt)
        started = self._now()
        failure: UnavailableError | QueueFullError
        try:
            return await engine.score(request, timeout)
        except (UnavailableError, QueueFullError) as error:
            failure = error
        others = [
            other
            for other in self._choice.others((), isinstance(failure, QueueFullError))
            if other is not engine
        ]
        if others:
            other = self._choice.best(others, prompt, salt)
            if timeout is not None:
                timeout -= self._now() - started
            try:
                return await other.score(request, timeout)
            except QueueFullError as error:
                if not (
                    isinstance(failure, QueueFullError) and failure.retry_after < error.retry_after
                ):
                    engine, failure = other, error
        if isinstance(failure, QueueFullError):
            self._choice.refused.remember(name, engine.address)
        raise failure

    def model_info(self) -> types_pb2.ModelInfo:
        """What the engines serve, by the first that is ready.

        If none is ready, raises ModelMismatchError if the engines that are connected serve another
        model, else UnavailableError.
        """
        return self._choice.ready()[0].model_info

    def descriptions(self) -> list[types_pb2.EngineState]:
        """What is known of each engine."""
        return [engine.description for engine in self._engines]

    async def readiness(self) -> AsyncGenerator[bool, None]:
        """Whether any engine is ready: first the present value, then every change."""
        known: bool | None = None
        while True:
            changed = self._changed
            if self.ready != known:
                known = self.ready
                yield known
            else:
                await changed.wait()

    def _check_name(self, field: str, name: str) -> None:
        """Raises InvalidRequestError if a request may not have this name now."""
        check_name(field, name)
        if name in self._streams:
            raise InvalidRequestError(field, f"{name} is running already")

    def _resumed_at(self, origin: Origin, fingerprint: str) -> tuple[EngineClient, bool]:
        """The engine for what goes on with output of others, and whether that is exact."""
        engines = self._choice.ready()
        like = [each for each in engines if each.numerics.fingerprint == fingerprint != ""]
        has_output = any(each.token_ids or each.is_over for each in origin.new_progress())
        is_exact = bool(like) or not has_output
        if not is_exact and self._migrate is not Migrate.ANY:
            raise UnavailableError(
                f"no engine that is ready can exactly go on with it: none has the numerics "
                f"fingerprint {fingerprint or 'of an engine whose results are reproducible'}"
            )
        return self._choice.best_for(origin, like or engines), is_exact

    def _forget(self, stream: EngineStream) -> None:
        """A stream has ended: its name is free."""
        if self._streams.get(stream.name) is stream:
            del self._streams[stream.name]
        if stream.complete:
            self._on_finished(stream)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _notify(self) -> None:
        self._choice.note_changes()
        if self._replicas.fingerprint != self._known_replica:
            self._known_replica = self._replicas.fingerprint
            for engine in self._engines:
                engine.reconsider()
        self._mover.consider()
        # An event for each change: whoever waits sees this one, whoever comes later the next.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _end(part: Part, failure: Failure) -> None:
    """What runs at one engine only ends with it."""
    part.stream.end(failure.error)

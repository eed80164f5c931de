"""Callers: each makes one request of a front end, and notes what comes of it."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm_client.api.calls.progress import Progress
from simulation.front_end import FrontEnd
from simulation.messages import chat_message, fork_message, generate_message, score_message
from simulation.scenario import RequestSpec
from tokenizer_service.handlers.chat import chat
from tokenizer_service.handlers.fork import fork
from tokenizer_service.handlers.generate import generate
from tokenizer_service.handlers.score import score
from tokenizer_service.handlers.services import Services

Resumable = (tokenizer_service_pb2.GenerateRequest, tokenizer_service_pb2.ChatRequest)
# Seconds until a caller whose call broke calls again.
_RETRY = 0.05


class BrokenError(Exception):
    """A call broke that cannot go on."""


@dataclass
class IndexRecord:
    """What came for one continuation."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[types_pb2.PositionLogprobs] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    events: list[tokenizer_service_pb2.ChatOutput] = field(default_factory=list)
    cumulative_logprob: float | None = None
    final: types_pb2.CompletionOutput | tokenizer_service_pb2.ChatFinish | None = None


@dataclass
class Record:
    """What came of one request."""

    spec: RequestSpec
    kind: str
    """generate, chat, fork or score."""
    started: float = 0.0
    ended: float | None = None
    error: BaseException | None = None
    left: bool = False
    """Whether the caller has left before the end."""
    indexes: dict[int, IndexRecord] = field(default_factory=dict)
    infos: dict[int, types_pb2.RequestInfo] = field(default_factory=dict)
    scores: types_pb2.ScoreResponse | None = None
    last: float = 0.0
    """When something came last."""
    last_token: float | None = None
    """When a token came last."""
    longest_pause: float = 0.0
    complaints: list[str] = field(default_factory=list)
    """What was wrong at once."""
    num_messages: int = 0
    front_end: int = 0
    """Whom it calls now, or called last."""
    num_breaks: int = 0
    """How often its connection broke."""

    def __post_init__(self) -> None:
        self.front_end = self.spec.front_end

    @property
    def name(self) -> str:
        """Of the request in traces."""
        return f"{self.kind} {self.spec.number}"

    @property
    def num_tokens(self) -> int:
        """Tokens that have come."""
        return sum(len(each.token_ids) for each in self.indexes.values())


class Caller:
    """One request's caller, which goes on elsewhere when its call breaks, as the client does."""

    def __init__(
        self, record: Record, trace: "Trace", find: Callable[[int], FrontEnd | None]
    ) -> None:
        """`find` returns the front end of a number, or another one; None if there is none now."""
        self._record = record
        self._trace = trace
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._call: asyncio.Task[None] | None = None
        self._is_broken = False
        self.front_end: FrontEnd | None = None
        """Whom it calls."""
        self.on_fork: Callable[[], None] = lambda: None
        """Is called when its fork is to begin."""
        request = self._first_request()
        self._progress = Progress(request) if isinstance(request, Resumable) else None
        self._request: Any = request
        if self._progress is not None:
            self._request = self._progress.first_request()

    def break_off(self) -> None:
        """Its connection breaks."""
        if self._call is not None and not self._call.done() and not self._is_broken:
            self._is_broken = True
            self._call.cancel()

    async def run(self) -> None:
        """Makes the request and reads it to its end, or until the caller leaves."""
        record, spec = self._record, self._record.spec
        record.started = record.last = self._loop.time()
        try:
            async with asyncio.timeout(spec.leaves):
                await self._read_on()
        except TimeoutError:
            record.left = True
        except Exception as error:
            record.error = error
        record.ended = self._loop.time()
        self._note_pause()
        self._trace.add(record.ended, record.kind, spec.number, type(record.error).__name__)

    async def _read_on(self) -> None:
        record, progress = self._record, self._progress
        while True:
            while (front_end := self._find(record.front_end)) is None:
                await asyncio.sleep(_RETRY)
            self.front_end, record.front_end = front_end, front_end.number
            self._call = front_end.process.start(self._read(front_end.services))
            try:
                await self._call
                return
            except asyncio.CancelledError:
                if not self._is_broken:
                    raise
            self._is_broken = False
            record.num_breaks += 1
            if progress is None:
                raise BrokenError
            if progress.is_complete:
                return
            await asyncio.sleep(_RETRY)
            self._request = progress.next_request()
            record.front_end += 1  # another one, if there is one

    def _first_request(self) -> Any:
        record, spec = self._record, self._record.spec
        if record.kind == "score":
            return score_message(spec)
        if record.kind == "generate":
            return generate_message(spec)
        return chat_message(spec) if record.kind == "chat" else fork_message(spec)

    async def _read(self, services: Services) -> None:
        record, request = self._record, self._request
        messages: Any
        if record.kind == "score":
            record.scores = await score(request, services, None)
            return
        if record.kind == "generate":
            messages = generate(request, services)
        elif record.kind == "chat":
            messages = chat(request, services)
        else:
            messages = fork(request, services)
        note = None if self._progress is None else self._progress.reader(lambda: lambda _: None)
        async with aclosing(messages):
            async for message in messages:
                if self._is_broken:
                    return
                if note is not None:
                    note(message)
                self._take(message)
                if record.spec.pause:
                    await asyncio.sleep(record.spec.pause)

    def _take(self, message: Any) -> None:
        record = self._record
        record.num_messages += 1
        self._note_pause()
        index = message.index
        known = record.indexes.get(index)
        if known is None:
            known = record.indexes[index] = IndexRecord()
        if known.final is not None:
            record.complaints.append(f"index {index} has a message after its final one")
        if message.HasField("info"):
            if index in record.infos:
                record.complaints.append(f"index {index} has a second info")
            record.infos[index] = message.info
        token_ids = message.token_ids[:]
        if token_ids:
            known.token_ids += token_ids
            record.last_token = record.last
        if message.logprobs:
            known.logprobs += message.logprobs
        if record.kind == "chat":
            kind = message.WhichOneof("event")
            if kind is not None:  # it is one of an info else
                known.events.append(message)
            if kind == "finish":
                known.final = message.finish
        else:
            known.texts.append(message.text)
            if message.HasField("cumulative_logprob"):
                known.cumulative_logprob = message.cumulative_logprob
            if message.finish_reason:
                known.final = message
        self._trace.add(record.last, record.kind, record.spec.number, index, *token_ids)
        fork_spec = record.spec.fork
        if fork_spec is not None and record.num_messages == fork_spec.after:
            self.on_fork()

    def _note_pause(self) -> None:
        record, now = self._record, self._loop.time()
        record.longest_pause = max(record.longest_pause, now - record.last)
        record.last = now


class Trace:
    """A number over everything that has happened, in order; and if wanted, what that was."""

    def __init__(self, keep: bool = False) -> None:
        self.value = 0
        self.lines: list[str] = []
        self._keep = keep

    def add(self, now: float, *what: object) -> None:
        """Notes an event."""
        # Strings are hashed anew in each process.
        self.value = hash((self.value, now, *(_number(each) for each in what)))
        if self._keep:
            self.lines.append(f"{now - 1000:10.4f} {' '.join(map(str, what))}")


def _number(value: object) -> object:
    return tuple(value.encode()) if isinstance(value, str) else value

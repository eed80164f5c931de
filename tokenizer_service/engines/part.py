"""Part: the continuations of a stream that one engine runs as one request, and that move together.

A request has one part. A fork has one until it moves; then each branch is a request of its own.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Protocol

from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.engines.migration.attempts import Attempts, Failure
from tokenizer_service.engines.migration.numerics import Numerics
from tokenizer_service.engines.stream import EngineStream

TOKENS_PER_CONTINUATION = 64
"""Outstanding tokens of a running continuation. How long it will become is unknown; this is the
length of a short answer, so that many running ones weigh as much as a long prompt."""


class Home(Protocol):
    """The session that a part runs in."""

    address: str

    @property
    def takes_requests(self) -> bool:
        """Whether new requests may be sent."""

    def fork(
        self, part: "Part", command: engine_service_pb2.SessionCommand, name: str, parent: "Part"
    ) -> None:
        """Begins the branches of a part that runs here."""

    def abort(self, part: "Part", indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations."""

    def cancel(self, part: "Part") -> None:
        """Ends a part that is no longer wanted there."""


OnFailure = Callable[["Part", Failure], None]
"""Told that an engine does not go on with a part, which is at none now."""


class Part:
    """Some continuations of a stream, at one engine at a time or, while they move, at none."""

    def __init__(
        self,
        stream: EngineStream,
        indexes: Iterable[int],
        on_failure: OnFailure,
    ) -> None:
        self.stream = stream
        stream.parts.append(self)
        self._indexes = [*indexes]
        self._on_failure = on_failure
        self.attempts = Attempts()
        self.numerics = Numerics("")
        """Of the engine that its tokens come from."""
        self.exact = True
        """Whether all its tokens come from engines that are like each other."""
        self.num_moves = 0
        self.may_move = True
        """Whether it may go on at another engine."""
        self.home: Home | None = None
        """Where it runs."""
        self.wire_name = ""
        """What the engine calls it; its outputs carry the stream's name when they are read."""
        self.handle = 0
        """That of index 0 in the session's columns; 0 for none."""
        self.scheduled = False
        """Whether it is known that a step of its engine computes it."""
        self.outstanding_tokens = 0
        """An estimate of what its engine still has to compute for it."""
        self._num_unstarted_tokens = 0

    @property
    def indexes(self) -> Sequence[int]:
        """The continuations that have not ended."""
        return [index for index in self._indexes if not self.stream.progress[index].is_over]

    @property
    def complete(self) -> bool:
        """Whether all outputs have come."""
        return not self.indexes

    @property
    def has_output(self) -> bool:
        """Whether an engine has sent anything, so that another one has to go on from there."""
        progress = (self.stream.progress[index] for index in self._indexes)
        if any(each.token_ids or each.is_over for each in progress):
            return True
        return any(self.stream.infos[index].info is not None for index in self._indexes)

    @property
    def num_tokens(self) -> int:
        """Those that an engine computes first, if it shares them with nothing that it has."""
        progress = self.stream.progress
        num_output_tokens = sum(len(progress[index].token_ids) for index in self.indexes)
        return self._num_begun_with + num_output_tokens

    def split(self) -> Sequence["Part"]:
        """A part for each continuation that has not ended; they take the place of this one."""
        if len(self._indexes) == 1:
            return [self]
        parts = []
        for index in self.indexes:
            part = copy(self)
            part._indexes, part.attempts = [index], copy(self.attempts)
            part.attempts.tried = [*self.attempts.tried]
            parts.append(part)
        self.stream.parts.remove(self)
        self.stream.parts += parts
        return parts

    def forget(self) -> None:
        """Drops all that came, of which nothing was read: it begins again."""
        self.stream.forget(self._indexes)
        self.exact = True

    def begin_at(self, home: Home, numerics: Numerics) -> None:
        """It is about to be sent to an engine."""
        self.attempts.begin(home)
        self.stream.addresses.append(home.address)
        self.numerics = numerics

    def attach(
        self, home: Home, wire_name: str, handle: int = 0, num_unstarted_tokens: int | None = None
    ) -> None:
        """Says where it runs from now on.

        `num_unstarted_tokens` are those that the engine computes first, if it is not `num_tokens`.
        """
        self.home, self.wire_name, self.handle = home, wire_name, handle
        self.scheduled = False
        self._num_unstarted_tokens = (
            self.num_tokens if num_unstarted_tokens is None else num_unstarted_tokens
        )
        num_running = len(self.indexes)
        self.outstanding_tokens = self._num_unstarted_tokens + num_running * TOKENS_PER_CONTINUATION
        for index in self._indexes:
            self.stream.infos[index].begin_again()

    def put(self, output: types_pb2.CompletionOutput) -> None:
        """Adds an output of the engine to the stream."""
        self._start()
        if not self.attempts.is_over and output.token_ids:
            self.attempts.succeed()
        if output.HasField("info"):
            output.info.numerics_fingerprint = self.numerics.fingerprint
            if not self.stream.take_info(output):
                return
        if output.finish_reason:
            self.outstanding_tokens -= TOKENS_PER_CONTINUATION
            self._sign(output)
        if self.wire_name is not self.stream.name:
            output.request_id = self.stream.name
        self.stream.put(output)

    def put_ids(self, index: int, token_ids: Sequence[int]) -> None:
        """As `put`, of an output that has nothing but token ids."""
        self._start()
        if not self.attempts.is_over:
            self.attempts.succeed()
        self.stream.put_ids(index, token_ids)

    def fail(self, failure: Failure) -> None:
        """The engine does not go on with it."""
        self.home = None
        self._on_failure(self, failure)

    def abort(self, indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations."""
        if self.home is not None:
            self.home.abort(self, indexes)

    def cancel(self) -> None:
        """Ends it where it runs."""
        if self.home is not None:
            self.home.cancel(self)
            self.home = None

    def finish_aborted(self) -> None:
        """Ends, without an engine, continuations of which only the final output is wanted."""
        for index in self.indexes:
            progress = self.stream.progress[index]
            if progress.aborted:
                output = types_pb2.CompletionOutput(
                    request_id=self.stream.name,
                    index=index,
                    finish_reason=types_pb2.FINISH_REASON_ABORT,
                )
                output.usage.prompt_tokens = self._num_begun_with
                output.usage.completion_tokens = len(progress.token_ids)
                self.put(output)
                self.stream.wake()

    def _start(self) -> None:
        """Notes that the engine computes it."""
        self.scheduled = True
        if self._num_unstarted_tokens:
            self.outstanding_tokens -= self._num_unstarted_tokens
            self._num_unstarted_tokens = 0

    def _sign(self, output: types_pb2.CompletionOutput) -> None:
        """Adds to a final output what only its stream knows."""
        output.exact, output.num_moves = self.exact, self.num_moves
        info = self.stream.infos[output.index].info
        if self.num_moves and info is not None and output.HasField("usage"):
            # The engine that goes on counts what it had itself.
            output.usage.cached_tokens = info.cached_tokens

    @property
    def _num_begun_with(self) -> int:
        """Tokens that its continuations began with, as far as that is known."""
        return len(self.stream.origin.prompt_token_ids) + len(self.stream.inherited())

"""Mover: which streams go on at another engine, when, and where.

A stream moves when its engine is lost or has refused it, is silent, or drains. What has output goes
to an engine that gives it the same tokens, as `Migrate` says; what has none, to any.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import structlog

from folovllm.errors import (
    FolovError,
    InvalidRequestError,
    QueueFullError,
    ServerError,
    UnavailableError,
)
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.migration.attempts import Failure
from tokenizer_service.engines.migration.continuation import begin_anew, go_on, go_on_branch
from tokenizer_service.engines.migration.numerics import Migrate
from tokenizer_service.engines.migration.origin import Command, ForkOrigin
from tokenizer_service.engines.part import Part
from tokenizer_service.engines.routing.choice import EngineChoice
from tokenizer_service.engines.session import EngineSession
from tokenizer_service.engines.silences import Silences
from tokenizer_service.engines.wire_names import other_name

# Tokens of moved requests that are sent before the event loop goes on: some milliseconds of work.
_TOKENS_AT_ONCE = 65_536
# What a request costs beyond them.
_TOKENS_PER_REQUEST = 1024

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")


class _Way(Enum):
    """How a part goes on."""

    ANEW = auto()
    """From its beginning; what came and was not read is dropped."""
    EXACTLY = auto()
    INEXACTLY = auto()


@dataclass(frozen=True, slots=True)
class _Target:
    engine: EngineClient
    way: _Way


class Mover:
    """Moves the parts of streams. Belongs to one event loop."""

    def __init__(self, choice: EngineChoice, migrate: Migrate, time_to_answer: float) -> None:
        """`time_to_answer` is that of a heartbeat, in seconds."""
        self._choice = choice
        self._silences = Silences(time_to_answer, self._rescue_all)
        self._migrate = migrate
        self._work: deque[tuple[Part, Callable[[], None]]] = deque()
        self._budget = _TOKENS_AT_ONCE
        self._is_due = False

    def fail(self, part: Part, failure: Failure) -> None:
        """The engine of a part, which is at none now, does not go on with it."""
        self._add(part, partial(self._go_on, part, failure))

    def begin_fork(self, part: Part) -> None:
        """Begins a fork by what is known of its parent, whose engine cannot branch it now."""
        self._add(part, partial(self._begin_fork, part))

    def consider(self) -> None:
        """Moves what runs where it should not stay. To be called when anything has changed."""
        sessions = self._sessions()
        self._silences.consider(sessions)
        for session in sessions:
            if session.drains and not session.is_silent:
                for part in session.parts:
                    self._add(part, partial(self._hand_over, part, session))

    def close(self) -> None:
        """Moves nothing more by itself."""
        self._silences.close()

    def _sessions(self) -> list[EngineSession]:
        sessions = (each.open_session for each in self._choice.engines)
        return [session for session in sessions if session is not None]

    def _rescue_all(self, session: EngineSession) -> None:
        for part in session.parts:
            self._add(part, partial(self._rescue, part, session))

    # A few at a time, so that an engine with many requests does not hold up all others.

    def _add(self, part: Part, move: Callable[[], None]) -> None:
        self._work.append((part, move))
        if not self._is_due:
            self._do_some()

    def _do_more(self) -> None:
        self._is_due, self._budget = False, _TOKENS_AT_ONCE
        self._do_some()

    def _do_some(self) -> None:
        while self._work:
            if self._budget <= 0:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._do_more)
                return
            part, move = self._work.popleft()
            if part.stream.has_ended:
                continue
            self._budget -= _TOKENS_PER_REQUEST + part.num_tokens
            try:
                move()
            except FolovError as error:
                part.stream.end(_final(error, part))
            except Exception as error:
                log.error("stream cannot be moved", request_id=part.stream.name, exc_info=error)
                part.stream.end(ServerError("internal error; the server's log says more"))

    def _go_on(self, part: Part, failure: Failure) -> None:
        final = part.attempts.fail(failure)
        part.finish_aborted()
        if part.complete:
            return
        error = failure.error
        if part.stream.origin.is_fork and not part.attempts.was_admitted:
            final = final or (error if isinstance(error, QueueFullError) else None)
        if final is None:
            needs_room = isinstance(error, QueueFullError) and not part.attempts.was_admitted
            target = self._target(part, needs_room)
            if target is not None:
                self._begin(part, target)
                return
            final = part.attempts.final(self._explained(error, part))
        if isinstance(final, QueueFullError) and not part.stream.origin.is_fork:
            self._choice.refused.remember(part.stream.name, part.attempts.refused_by)
        part.stream.end(_final(final, part))

    def _rescue(self, part: Part, session: EngineSession) -> None:
        """Takes a part away from a silent engine, if another goes on with it."""
        if part.home is not session or not session.is_silent or _ends_with(part, session):
            return
        target = self._target(part)
        if target is None:
            return
        part.cancel()
        error = UnavailableError(f"engine {session.address}: it is silent")
        final = part.attempts.fail(Failure(error, admitted=True, scheduled=part.scheduled))
        part.attempts.leave(session)
        part.finish_aborted()
        if part.complete:
            return
        if final is not None:
            raise final
        self._begin(part, target)

    def _hand_over(self, part: Part, session: EngineSession) -> None:
        """Moves a part from an engine that drains to one that is like it, if there is one."""
        if part.home is not session or _ends_with(part, session):
            return
        target = self._target(part)
        if target is None or (part.has_output and target.way is not _Way.EXACTLY):
            return
        part.cancel()
        part.attempts.note_admitted()
        part.finish_aborted()
        if not part.complete:
            self._begin(part, target)

    def _begin_fork(self, part: Part) -> None:
        self._choice.ready()  # raises an error that says why there is none
        target = self._target(part)
        assert target is not None
        self._begin(part, target)

    def _target(self, part: Part, needs_room: bool = False) -> _Target | None:
        """Where a part goes on, and how; None if nowhere."""
        engines, way = self._choice.others(part.attempts.tried, needs_room), _Way.ANEW
        if part.has_output:
            may_continue = self._migrate is not Migrate.NEVER or part.stream.origin.goes_on
            like = [each for each in engines if part.numerics.is_like(each.numerics)]
            if may_continue and like:
                engines, way = like, _Way.EXACTLY
            elif part.stream.was_read:
                way = _Way.INEXACTLY
                engines = engines if self._migrate is Migrate.ANY else []
        elif part.stream.origin.is_fork:  # its parent's tokens are of such an engine
            engines = [each for each in engines if part.numerics.is_like(each.numerics)] or engines
        if not engines:
            return None
        return _Target(self._choice.best_for(part.stream.origin, engines), way)

    def _explained(self, error: FolovError, part: Part) -> FolovError:
        """The error with which a stream ends that no other engine has taken over."""
        if (
            part.has_output
            and part.stream.was_read
            and isinstance(error, UnavailableError)
            and self._choice.others(part.attempts.tried)
        ):
            why = "may" if self._migrate is Migrate.NEVER else "can exactly"
            error.args = (f"{error}; no other engine that is ready {why} go on with it",)
        return error

    def _begin(self, part: Part, target: _Target) -> None:
        """Sends a part, which is at no engine, to one."""
        stream, engine = part.stream, target.engine
        if target.way is _Way.ANEW and part.has_output:
            part.forget()
        elif target.way is _Way.INEXACTLY:
            part.exact = False
        was_admitted = part.attempts.was_admitted
        part.num_moves += was_admitted
        if was_admitted:
            log.info("stream moves", request_id=stream.name, engine=engine.address)
        for each, command in self._commands(part, engine):
            if was_admitted:
                age = asyncio.get_running_loop().time() - stream.origin.arrival
                command.moved.age.FromNanoseconds(round(age * 1e9))
                command.moved.is_suspect = part.attempts.is_suspect
            is_same = not was_admitted and not stream.origin.is_fork
            name = stream.name if is_same else other_name(stream.name)
            begin(each, command, engine, name)

    def _commands(self, part: Part, engine: EngineClient) -> Iterable[tuple[Part, Command]]:
        """What begins a part at an engine; a branch becomes a part of its own."""
        stream, origin = part.stream, part.stream.origin
        defaults = engine.model_info.default_sampling_params
        if not isinstance(origin, ForkOrigin):
            if part.has_output:
                yield part, go_on(origin, part.indexes, stream.progress, stream.infos, defaults)
            else:
                yield part, begin_anew(origin)
            return
        for each in part.split():
            (index,) = each.indexes
            command = go_on_branch(origin, index, stream.progress, stream.infos, defaults)
            if command is None:
                raise UnavailableError("its parent was lost before it was known where it branches")
            yield each, command


def begin(part: Part, command: Command, engine: EngineClient, wire_name: str) -> None:
    """Sends a part's request to an engine. Raises as its session's `generate`."""
    session = engine.session
    part.begin_at(session, engine.numerics)
    session.generate(part, command, wire_name)


def _ends_with(part: Part, session: EngineSession) -> bool:
    """Ends a part that runs only there."""
    if not part.may_move:
        part.stream.end(UnavailableError(f"engine {session.address}: {session.trouble}"))
    return not part.may_move


def _final(error: FolovError, part: Part) -> FolovError:
    """What a stream ends with: its caller is not to blame for how it was moved."""
    if isinstance(error, InvalidRequestError) and part.num_moves:
        return UnavailableError(f"no engine goes on with it: {error}")
    return error

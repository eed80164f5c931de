"""Outbox: what a session has to tell its front end, as messages of bounded size.

What comes for a request while a message is written becomes part of the next one. A message ends
before it takes long to make, so the event loop goes on between two.

What is only token ids comes as rows, past the stream of its request, and goes into columns. A front
end reads those before the outputs of the same message. So columns are filled as a message is begun;
what a request has to tell after that begins with its rows that have come since; and while anything
of a continuation waits in its stream, so do its token ids.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

from engine_service.rpc.front_end import FrontEnd
from engine_service.rpc.load_reports import LoadReporter
from engine_service.rpc.output_messages import output_messages
from engine_service.rpc.pending_rows import PendingRows
from engine_service.rpc.session_call import SessionCall
from folovllm.errors import FolovError, to_status
from folovllm.v1 import engine_service_pb2, types_pb2

# Of a message, unless it is one part. With log-probabilities it then takes a few milliseconds to
# make; a step of five hundred requests is one.
_MAX_BYTES = 32 * 1024
# What a part costs beyond its bytes.
_PART_BYTES = 32
# Failures that wait to be written; no command is read while there are more.
_MAX_FAILURES = 1024

SessionEvents = engine_service_pb2.SessionEvents
SessionFailure = engine_service_pb2.SessionFailure
Output = types_pb2.CompletionOutput
Part = Output | SessionFailure | str
"""A str is the name of a request that a step computes for the first time."""


class Outbox:
    """Everything that is to be written to one front end."""

    def __init__(
        self,
        load: LoadReporter,
        front_end: FrontEnd,
        complete: Callable[[SessionCall], None],
        fail: Callable[[SessionCall, Exception], None],
        wake: Callable[[], None],
    ) -> None:
        """`complete` is told of a request whose last piece is in the message that is being made,
        and `fail` of one that has failed. `wake` is called when there is something to tell.
        """
        self._wake = wake
        self._load = load
        self._front_end = front_end
        self._complete = complete
        self._fail = fail
        self._changed: dict[SessionCall, None] = {}  # those with unread outputs, in order
        self._rows = PendingRows()
        self._failed: deque[tuple[SessionCall, FolovError]] = deque()
        self._greeted = False
        self.drains = False
        """Whether the front end is still to be told that the engine drains."""
        self.ended: list[SessionCall] = []
        """Those whose end is in the message that is being written."""

    @property
    def is_full(self) -> bool:
        """Whether so many failures wait that no more may be caused."""
        return len(self._failed) >= _MAX_FAILURES

    def add(self, call: SessionCall) -> None:
        """A request has something in its stream."""
        self._changed[call] = None
        self._wake()

    def put_rows(self, handles: list[int], token_ids: list[Sequence[int]]) -> None:
        """See RowSink."""
        self._rows.add(handles, token_ids)
        self._wake()

    def add_failure(self, call: SessionCall, error: FolovError) -> None:
        """A request has ended with an error."""
        self._failed.append((call, error))
        self._wake()

    def forget(self, call: SessionCall) -> None:
        """Tells nothing more of a request's stream."""
        self._changed.pop(call, None)
        if self._rows and call.stream is not None:
            for _ in self._rows.pop(call.stream.handles):
                pass

    def messages(self) -> Iterator[SessionEvents]:
        """Everything pending. The next message is made when the one before has been written."""
        while True:
            yield from self._messages_of_parts()
            if not self._rows:
                return

    def _messages_of_parts(self) -> Iterator[SessionEvents]:
        """All parts that are pending, with the rows that there is room for."""
        message, size = self._begun()
        outputs = message.outputs  # it takes as long to look up as to append to
        for part in self._parts():
            part_size = _PART_BYTES + (len(part) if isinstance(part, str) else part.ByteSize())
            if size and size + part_size > _MAX_BYTES:
                yield self._completed(message)
                message, size = self._begun()
                outputs = message.outputs
            if isinstance(part, Output):
                outputs.append(part)
            else:
                _add(message, part)
            size += part_size
        if size or self._load.due or self._front_end.answer_due or self.drains:
            self._completed(message)
            if size or message.ByteSize():
                yield message

    def _begun(self) -> tuple[SessionEvents, int]:
        """A message with its columns, and about how many bytes they take."""
        message = SessionEvents()
        return message, self._rows.move_to(message)

    def _completed(self, message: SessionEvents) -> SessionEvents:
        """A message with what is due beside its parts."""
        load, heartbeat = self._load.changed_load(), self._front_end.answer()
        if load is not None:
            message.load.CopyFrom(load)
        if heartbeat is not None:
            message.heartbeat.CopyFrom(heartbeat)
        message.drains, self.drains = self.drains, False
        if not self._greeted:
            message.answers_heartbeats = self._greeted = True
        return message

    def _parts(self) -> Iterator[Part]:
        """Everything pending. A request has ended once the part after its last one is requested."""
        while self._changed:
            call = next(iter(self._changed))
            del self._changed[call]
            yield from self._parts_of(call)
        while self._failed:
            call, error = self._failed.popleft()
            yield SessionFailure(request_id=call.name, status=to_status(error).SerializeToString())
            self.ended.append(call)

    def _parts_of(self, call: SessionCall) -> Iterator[Part]:
        assert call.stream is not None
        # Read together: between two parts a message may be written, and more may arrive.
        pieces, error, complete = call.stream.drain(), call.stream.error, call.stream.complete
        if call.stream.scheduled and not call.scheduled_told:
            call.scheduled_told = True
            if not pieces:  # which would tell
                yield call.name
        # Those without a piece still have a route: while a message is written, more rows of theirs
        # may come, and go into the columns of the next one, before what would be taken here.
        stream = call.stream
        handles = stream.handles if error is not None else stream.handles_of(pieces)
        try:
            for row in self._rows.pop(handles):
                yield _output(call, *row)
            for piece in pieces:
                if piece.info is None:  # as most have, and another generator would take time
                    yield piece.to_proto()
                else:
                    yield from takewhile(lambda _: call.code is None, output_messages(piece))
                if call.code is not None:  # it was cancelled meanwhile
                    return
        except Exception as raised:
            self._fail(call, raised)
            return
        if error is not None:
            self._fail(call, error)
        elif complete:
            self._complete(call)
            self.ended.append(call)
        else:
            call.stream.resume_rows(pieces)


def _output(call: SessionCall, handle: int, token_ids: Sequence[int]) -> Output:
    return Output(request_id=call.name, index=handle - call.handle, token_ids=token_ids)


def _add(message: SessionEvents, part: SessionFailure | str) -> None:
    if isinstance(part, SessionFailure):
        message.failures.append(part)
    else:
        message.scheduled.append(part)

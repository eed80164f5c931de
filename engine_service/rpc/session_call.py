"""SessionCall: one request of a session, like a call of Generate or Fork."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import grpc

from engine_service.engine.output_stream import OutputStream
from engine_service.overload.ticket import Ticket
from folovllm.bounds.table import message_bounds
from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import MAX_N
from folovllm.serving.call_log import log_end
from folovllm.serving.request_names import MAX_NAME_BYTES
from folovllm.v1 import engine_service_pb2

_COMMAND = message_bounds(engine_service_pb2.SessionCommand.DESCRIPTOR)
_MAX_HANDLE = int(_COMMAND.range("handle").high)


@dataclass(slots=True, eq=False)
class SessionCall:
    """The state of one request."""

    method: str
    """As in the log."""
    name: str
    """The caller's request_id or fork_id."""
    handle: int = 0
    """That of index 0 in columns; 0 if it has none."""
    started: float = field(default_factory=time.monotonic)
    counted: ExitStack = field(default_factory=ExitStack)
    """Delays a drain of the server until it is closed."""
    ticket: Ticket | None = None
    """Its admission, while it waits for its grammars."""
    stream: OutputStream | None = None
    """Its outputs, once the engine has admitted the request."""
    scheduled_told: bool = False
    """Whether the front end knows that a step computes it."""
    aborted: set[int] | None = None
    """The indexes of the Aborts that came before that, empty for all; None if none came."""
    code: grpc.StatusCode | None = None
    """How it ended."""

    def abort(self, indexes: Sequence[int]) -> None:
        """An Abort has come before the engine has the request."""
        if not indexes or self.aborted == set():
            self.aborted = set()
        else:
            self.aborted = {*(self.aborted or ()), *(i for i in indexes if i < MAX_N)} or None

    def close(self, peer: str) -> None:
        """Logs the request, which has ended, and no longer delays a drain."""
        assert self.code is not None
        self.counted.close()
        name = self.name[:MAX_NAME_BYTES]
        log_end(self.method, self.code, self.started, peer=peer, request_id=name)


def check_handle(handle: int) -> None:
    """Raises InvalidRequestError if a continuation's handle could be too large."""
    if handle > _MAX_HANDLE:
        raise InvalidRequestError("handle", f"handle must be at most {_MAX_HANDLE}")

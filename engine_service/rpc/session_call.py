"""SessionCall: one request of a session, like a call of Generate or Fork."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import grpc

from engine_service.engine.output_stream import OutputStream
from engine_service.overload.ticket import Ticket
from folovllm.sampling_params import MAX_N
from folovllm.serving.call_log import log_end
from folovllm.serving.request_names import MAX_NAME_BYTES


@dataclass(slots=True, eq=False)
class SessionCall:
    """The state of one request."""

    method: str
    """As in the log."""
    name: str
    """The caller's request_id or fork_id."""
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

"""SessionCall: one request of a session, which is what a call of Generate or Fork would be."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import grpc

from engine_service.engine.output_stream import OutputStream
from folovllm.request_names import MAX_NAME_BYTES
from folovllm.serving.call_log import log_end


@dataclass(slots=True, eq=False)
class SessionCall:
    """Where one request stands."""

    method: str
    """As the log has it."""
    name: str
    """The caller's request_id or fork_id."""
    started: float = field(default_factory=time.monotonic)
    counted: ExitStack = field(default_factory=ExitStack)
    """Holds up a drain of the server until it is closed."""
    stream: OutputStream | None = None
    """What the engine brings, from when it has taken the request."""
    aborts: list[tuple[int, ...]] = field(default_factory=list)
    """What to abort of it as soon as the engine has taken it."""
    code: grpc.StatusCode | None = None
    """How it has ended."""

    def close(self, peer: str) -> None:
        """Lets a drain go on and leaves a line in the log: it has ended, and all of it is told."""
        assert self.code is not None
        self.counted.close()
        name = self.name[:MAX_NAME_BYTES]
        log_end(self.method, self.code, self.started, peer=peer, request_id=name)

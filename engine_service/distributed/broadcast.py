"""BroadcastChannel: sends bytes from the first rank to all others.

Most messages only begin the next step; a short one is a single broadcast of a fixed size.
"""

from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroup

from folovllm.errors import EngineDeadError

# How long a receiver waits. An engine may be idle for any time. A rank that ends closes its
# connections, which ends the wait at once; `liveness` notices one that only answers no more.
IDLE_LIMIT = timedelta(days=3650)

_FIRST_BYTES = 2048
_LENGTH_BYTES = 8


class BroadcastChannel:
    """One end of it. `group` exchanges CPU tensors, with the timeout IDLE_LIMIT.

    Waiting uses no CPU time.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def send(self, data: bytes) -> None:
        """From the first rank to all others. Raises EngineDeadError if one of them has ended."""
        first = len(data).to_bytes(_LENGTH_BYTES, "little") + data[: _FIRST_BYTES - _LENGTH_BYTES]
        self._broadcast(_tensor(first.ljust(_FIRST_BYTES, b"\0")))
        rest = data[_FIRST_BYTES - _LENGTH_BYTES :]
        if rest:
            self._broadcast(_tensor(rest))

    def receive(self) -> bytes:
        """The next message. Raises EngineDeadError if the first rank has ended."""
        first = self._broadcast(torch.empty(_FIRST_BYTES, dtype=torch.uint8)).numpy().tobytes()
        length = int.from_bytes(first[:_LENGTH_BYTES], "little")
        data = first[_LENGTH_BYTES:][:length]
        if len(data) < length:
            rest = torch.empty(length - len(data), dtype=torch.uint8)
            data += self._broadcast(rest).numpy().tobytes()
        return data

    def _broadcast(self, tensor: Tensor) -> Tensor:
        options = BroadcastOptions()
        options.rootRank = 0
        options.timeout = IDLE_LIMIT
        try:
            self._group.broadcast([tensor], options).wait()
        except RuntimeError as error:
            raise EngineDeadError(f"another rank has ended: {error}") from None
        return tensor


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)

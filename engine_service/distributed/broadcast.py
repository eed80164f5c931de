"""CommandChannel: what the first rank tells the others, one message after another.

A message is pickled, which is safe among processes that one launcher has started with one code.
Most say only that the next step begins, and are one broadcast of a fixed size.
"""

import pickle
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, ProcessGroup

from folovllm.errors import EngineDeadError

# How long a receiver waits. An engine may have nothing to do for as long as it likes, and a rank
# that ends closes its connections, which ends the wait at once.
IDLE_LIMIT = timedelta(days=3650)

_FIRST_BYTES = 2048
_LENGTH_BYTES = 8


class CommandChannel:
    """One end of it. `group` exchanges tensors of the CPU, with the timeout IDLE_LIMIT.

    Waiting takes no processor time.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    def send(self, message: object) -> None:
        """From the first rank to all others. Raises EngineDeadError where one of them has ended."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        first = len(data).to_bytes(_LENGTH_BYTES, "little") + data[: _FIRST_BYTES - _LENGTH_BYTES]
        self._broadcast(_tensor(first.ljust(_FIRST_BYTES, b"\0")))
        rest = data[_FIRST_BYTES - _LENGTH_BYTES :]
        if rest:
            self._broadcast(_tensor(rest))

    def receive(self) -> Any:
        """The next message. Raises EngineDeadError where the first rank has ended."""
        first = self._broadcast(torch.empty(_FIRST_BYTES, dtype=torch.uint8)).numpy().tobytes()
        length = int.from_bytes(first[:_LENGTH_BYTES], "little")
        data = first[_LENGTH_BYTES:][:length]
        if len(data) < length:
            rest = torch.empty(length - len(data), dtype=torch.uint8)
            data += self._broadcast(rest).numpy().tobytes()
        return pickle.loads(data)

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

"""Numbers on their way to a device and back, without waiting for what it computes meanwhile.

They pass through page-locked memory that is taken once: taking it anew may wait for the device.
"""

from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_service.kernels.gpu import events

# Steps that may be on their way at once, and as many again that are done with or being filled.
_DEPTH = 4


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device, in order with what else was launched."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # A copy from pageable memory would wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True)


class Uploads:
    """A ring of buffers for words that every step may bring; nothing else is as frequent."""

    def __init__(self, num_words: int, device: torch.device) -> None:
        """`num_words` is the most that are brought at once."""
        self._ring = cycle([_Upload(num_words, device) for _ in range(_DEPTH)])

    def send(self, words: NDArray[np.int32]) -> Tensor:
        """A copy on the device, int32 [len(words)], valid for the steps that are launched next.

        It is overwritten by the fourth call from now.
        """
        return next(self._ring).send(words)


class _Upload:
    def __init__(self, num_words: int, device: torch.device) -> None:
        is_gpu = device.type == "cuda"
        self._host = torch.empty(num_words, dtype=torch.int32, pin_memory=is_gpu)
        self._words = self._host.numpy()
        self._device = torch.empty(num_words, dtype=torch.int32, device=device)
        self._sent: torch.cuda.Event | None = None

    def send(self, words: NDArray[np.int32]) -> Tensor:
        if self._sent is not None:
            self._sent.synchronize()
        count = len(words)
        self._words[:count] = words
        target = self._device[:count]
        target.copy_(self._host[:count], non_blocking=True)
        if target.device.type == "cuda":
            self._sent = events.record()
        return target


class Readings:
    """A ring of buffers for what every step draws."""

    def __init__(self, num_words: int, device: torch.device) -> None:
        """`num_words` is the most that are read at once."""
        is_gpu = device.type == "cuda"
        self._num_words = num_words
        self._ring = cycle(
            [torch.empty(num_words, dtype=torch.int32, pin_memory=is_gpu) for _ in range(_DEPTH)]
        )

    def read(self, tensor: Tensor) -> "Reading":
        """Begins to copy int32 numbers; fewer than four readings may be unread at once."""
        if len(tensor) > self._num_words:
            return Reading(tensor, torch.empty(len(tensor), dtype=torch.int32))
        return Reading(tensor, next(self._ring))


class Reading:
    """Numbers that are copied to the host behind what was launched before."""

    def __init__(self, tensor: Tensor, buffer: Tensor) -> None:
        self._host = buffer[: len(tensor)]
        self._host.copy_(tensor, non_blocking=True)
        self._event = events.record() if tensor.device.type == "cuda" else None

    def numbers(self) -> list[int]:
        """All of a vector; waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[int] = self._host.tolist()
        return numbers

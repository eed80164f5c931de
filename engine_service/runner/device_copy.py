"""Copies to a device and back that do not wait for what it computes meanwhile.

They pass through page-locked memory that is allocated once: allocating it may wait for the device.
"""

from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_service.kernels.gpu import events

# Steps that may be in flight at once, and as many again that are done or being filled.
_DEPTH = 4


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device, in order with everything else that was launched."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # A copy from pageable memory would wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True)


class Uploads:
    """A ring of buffers for what every step may upload."""

    def __init__(self, num_words: int, device: torch.device) -> None:
        """`num_words` is the maximum of one upload."""
        self._sources = [_host_buffer(num_words, device) for _ in range(_DEPTH)]
        self._targets = torch.empty((_DEPTH, num_words), dtype=torch.int32, device=device)
        self._sent: list[torch.cuda.Event | None] = [None] * _DEPTH
        self._indexes = cycle(range(_DEPTH))

    def send(self, words: NDArray[np.int32]) -> Tensor:
        """A copy on the device, int32 [len(words)], for the steps that are launched next.

        It is overwritten by the fourth call from now.
        """
        i, count = next(self._indexes), len(words)
        if (sent := self._sent[i]) is not None:
            sent.synchronize()
        source, target = self._sources[i][:count], self._targets[i, :count]
        source.numpy()[:] = words
        target.copy_(source, non_blocking=True)
        if target.device.type == "cuda":
            self._sent[i] = events.record()
        return target


class Downloads:
    """A ring of buffers for the tokens that each step draws."""

    def __init__(self, num_words: int, device: torch.device) -> None:
        """Larger downloads than of `num_words` are copied more slowly."""
        self._ring = cycle([_host_buffer(num_words, device) for _ in range(_DEPTH)])

    def start(self, tensor: Tensor) -> "Download":
        """Begins to copy an int32 vector; at most three started before may be awaited still."""
        buffer = next(self._ring)
        if len(tensor) > len(buffer):
            buffer = torch.empty(len(tensor), dtype=torch.int32)
        return Download(tensor, buffer)


class Download:
    """Numbers that are copied to the host once what was launched before has run."""

    def __init__(self, tensor: Tensor, buffer: Tensor) -> None:
        self._host = buffer[: len(tensor)]
        self._host.copy_(tensor, non_blocking=True)
        self._event = events.record() if tensor.device.type == "cuda" else None

    def wait(self) -> list[int]:
        """The numbers, as soon as they are on the host."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[int] = self._host.tolist()
        return numbers


def _host_buffer(num_words: int, device: torch.device) -> Tensor:
    return torch.empty(num_words, dtype=torch.int32, pin_memory=device.type == "cuda")

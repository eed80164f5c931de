"""Numbers on their way to a device and back, without waiting for what it computes meanwhile."""

import numpy as np
import torch
from torch import Tensor

from engine_service.kernels.gpu import events


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the device, in order with what else was launched."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # A copy from pageable memory would wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True)


class Reading:
    """Numbers that are copied to the host behind what was launched before."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._host = tensor.clone()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = events.record()

    def numbers(self) -> list[int]:
        """All of a vector; waits until they are there."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[int] = self._host.tolist()
        return numbers

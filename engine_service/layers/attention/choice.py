"""Which attention backend computes on a device."""

import torch

from engine_service.layers.attention.backend import AttentionBackend
from engine_service.layers.attention.cpu_attention import CpuAttention
from engine_service.layers.attention.torch_attention import TorchAttention
from folovllm.errors import ConfigError


def choose_backend(device: torch.device) -> AttentionBackend:
    """The fastest backend in plain torch that runs on the device.

    Raises ConfigError if none does.
    """
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no attention backend for device {device}; use cpu or cuda")
    return CpuAttention() if device.type == "cpu" else TorchAttention()

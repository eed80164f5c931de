"""ModelOptions: how a model is held and computed, whatever its checkpoint."""

from dataclasses import dataclass

import torch

from engine_service.layers.parallel import SINGLE, TensorParallel


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """See ModelConfig and CacheConfig, where these come from. A backend refuses what it lacks."""

    dtype: torch.dtype
    device: torch.device
    deterministic: bool = False
    quantization: str = "none"
    cache_dtype: str = "auto"
    block_size: int = 16
    """Tokens in a block of the KV cache."""
    max_model_len: int | None = None
    """Positions; None is as many as the config has."""
    parallel: TensorParallel = SINGLE

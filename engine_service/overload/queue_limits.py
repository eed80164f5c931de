"""QueueLimits: how much may wait for an engine, sized by its model and its host's memory."""

import math
from dataclasses import dataclass

from engine_service.config import SchedulerConfig
from folovllm.model_info import ModelInfo

# Tokens of work that may wait, whatever is known of the engine's speed: as many for each request
# that may wait, or as many times the KV cache.
_TOKENS_A_REQUEST = 2048
_NUM_KV_CACHES = 16
# The part of the host's free memory that requests may hold, within bounds.
_MEMORY_SHARE = 1 / 16
_MIN_BYTES, _MAX_BYTES = 64 * 2**20, 2**30


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Of requests that an engine has admitted, all together."""

    max_num_waiting: float = math.inf
    """Requests without a first token."""
    max_num_tokens: float = math.inf
    """Work of those requests: their prompts, and what they are expected to generate."""
    max_num_bytes: float = math.inf
    """Host memory of all requests, those that run included."""
    max_seconds: float = math.inf
    """For the first step of a request."""
    target_seconds: float | None = None
    """The same while more comes than can be served. None: 2 s, or longer if requests run long."""
    ordinary_num_tokens: float = math.inf
    """Work up to which a request may use all of each limit. One of more has a smaller part."""


UNLIMITED = QueueLimits()
"""For callers in the engine's own process, who know what they ask for."""


def queue_limits(config: SchedulerConfig, info: ModelInfo, free_bytes: int) -> QueueLimits:
    """The limits of an engine that serves a model, on a host with so much memory left."""
    num_kv_tokens = info.num_kv_blocks * info.block_size
    step_size = config.step_size_on(info.device.partition(":")[0])
    return QueueLimits(
        max_num_waiting=config.max_num_waiting,
        max_num_tokens=max(
            _TOKENS_A_REQUEST * config.max_num_waiting, _NUM_KV_CACHES * num_kv_tokens
        ),
        max_num_bytes=min(max(_MIN_BYTES, int(free_bytes * _MEMORY_SHARE)), _MAX_BYTES),
        max_seconds=config.max_queue_seconds,
        target_seconds=config.target_queue_seconds,
        ordinary_num_tokens=step_size.max_num_batched_tokens,
    )

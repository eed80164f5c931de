"""LLMEngine on the fake model: the real scheduler, cache manager and engine without torch."""

import time
from collections.abc import Callable
from typing import Any

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Sequence
from engine_service.core.waiting.scheduling_policy import SchedulingPolicy
from engine_service.engine.llm_engine import LLMEngine
from folovllm.model_info import ModelInfo
from support.fakes.model_runner import VOCAB_SIZE, FakeModelRunner
from support.fakes.overlapping_runner import OverlappingFakeModelRunner

EOS = 999


def make_engine(
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 16,
    max_num_batched_tokens: int = 64,
    max_model_len: int = 128,
    enable_prefix_caching: bool = True,
    eos_token_ids: tuple[int, ...] = (),
    tokenizer_fingerprint: str = "fake",
    numerics_fingerprint: str = "exact",
    vocab_size: int = VOCAB_SIZE,
    speculation: str = "ngram",
    runner: FakeModelRunner | None = None,
    policy: SchedulingPolicy | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[LLMEngine, FakeModelRunner]:
    """A small engine; by default with no end-of-sequence token, so that lengths are exact."""
    config = EngineConfig(
        ModelConfig(),
        CacheConfig(block_size, num_blocks, enable_prefix_caching=enable_prefix_caching),
        SchedulerConfig(max_num_seqs, max_num_batched_tokens, speculation=speculation),
    )
    info = ModelInfo(
        model_id="fake",
        vocab_size=vocab_size,
        eos_token_ids=eos_token_ids,
        max_model_len=max_model_len,
        num_kv_blocks=num_blocks,
        block_size=block_size,
        tokenizer_fingerprint=tokenizer_fingerprint,
        numerics_fingerprint=numerics_fingerprint,
    )
    runner = runner or FakeModelRunner(block_size, vocab_size)
    return LLMEngine(runner, config, info, policy=policy, clock=clock), runner


def sequence_of(engine: LLMEngine, request_id: str) -> Sequence:
    """The first sequence of a request that has not ended."""
    seq = engine.scheduler.find_unfinished(request_id, 0)
    assert seq is not None
    return seq


def make_overlapping_engine(
    *, block_size: int = 4, vocab_size: int = VOCAB_SIZE, **options: Any
) -> tuple[LLMEngine, OverlappingFakeModelRunner]:
    """The same with a runner that the engine can be ahead of."""
    runner = OverlappingFakeModelRunner(block_size, vocab_size)
    engine, _ = make_engine(
        block_size=block_size,
        vocab_size=vocab_size,
        speculation="none",
        runner=runner,
        **options,
    )
    return engine, runner

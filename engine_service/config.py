"""What the engine service is started with. Frozen, checked when made, handed down in pieces.

What is discovered later (number of KV blocks, context length) is never written back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import click

from folovllm.errors import ConfigError
from folovllm.serving.address import DEFAULT_ENGINE_PORT
from folovllm.serving.args import POSITIVE, Seconds, check, option, parse
from folovllm.serving.logs import LogConfig
from folovllm.serving.server import ServerConfig
from folovllm.vllm_names import no_effect

SERVICE = "engine"
"""The prefix of its variables."""
QUANTIZATIONS = ("none", "int8", "int4")
SPECULATIONS = ("auto", "none", "ngram")
CACHE_DTYPES = ("auto", "fp8")
CPU_BLOCK_SIZE = 16
GPU_BLOCK_SIZE = 64
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how it is held."""

    model: str | None = option(
        None, "A model's folder or hub id. Default: the embedded one.", metavar="PATH_OR_ID"
    )
    dtype: str = option(
        "auto",
        "Of the weights; auto is the checkpoint's own where the device has it.",
        type=click.Choice(DTYPES),
    )
    device: str = option(
        "auto", "cpu, cuda or cuda:N; auto is the first GPU, if there is one.", metavar="DEVICE"
    )
    max_model_len: int | None = option(
        None,
        "Max tokens of prompt and completion together. Default: the model's own limit.",
        type=POSITIVE,
        metavar="N",
    )
    deterministic: bool = option(
        False, "Give a request the same tokens whatever is computed beside it; takes longer."
    )
    quantization: str = option(
        "none",
        "Hold the projections of a model on a CPU in 8 or 4 bits, made when they are loaded.",
        type=click.Choice(QUANTIZATIONS),
    )

    revision: str | None = None
    """Of a hub id: a branch, tag or commit. Default: the main branch."""
    trust_remote_code: bool = False
    """As in vLLM's code. Without effect: nothing that a model brings is ever executed."""

    def __post_init__(self) -> None:
        if self.trust_remote_code:
            no_effect("trust_remote_code", "nothing that a model brings is ever executed")
        check(self)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The paged KV cache."""

    block_size: int | None = option(
        None,
        "Tokens in one block of the KV cache. Default: 64 on a GPU, 16 on a CPU.",
        type=POSITIVE,
        metavar="N",
    )
    num_blocks: int | None = option(
        None,
        "Blocks of the KV cache. Default: as many as the memory holds.",
        type=POSITIVE,
        metavar="N",
    )
    memory_utilization: float | None = option(
        None,
        "Share of the device's free memory, after the weights, that the KV cache may take. "
        "Default: 0.9 of a GPU's, 0.5 of the main memory.",
        "--memory-utilization",
        "--gpu-memory-utilization",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
    )
    dtype: str = option(
        "auto",
        "Of keys and values: auto is the model's; fp8 halves their memory, on a GPU.",
        "--kv-cache-dtype",
        type=click.Choice(CACHE_DTYPES),
    )
    enable_prefix_caching: bool = option(
        True,
        "Do not keep the KV of finished requests for prompts that begin alike.",
        "--no-prefix-caching",
    )

    def block_size_on(self, device_type: str) -> int:
        """As configured, or what suits the device."""
        return self.block_size or (CPU_BLOCK_SIZE if device_type == "cpu" else GPU_BLOCK_SIZE)

    def __post_init__(self) -> None:
        check(self)


class StepSize(NamedTuple):
    """What one step may hold."""

    max_num_seqs: int
    max_num_batched_tokens: int


_CPU_STEP, _GPU_STEP = StepSize(64, 2048), StepSize(256, 8192)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What one step may hold, and how long the queue may grow."""

    max_num_seqs: int | None = option(
        None,
        "Max sequences that run at once. Default: 256 on a GPU, 64 on a CPU, at most the tokens "
        "of a step.",
        type=POSITIVE,
        metavar="N",
    )
    max_num_batched_tokens: int | None = option(
        None,
        "Max tokens of a step; longer prompts are computed in chunks. Default: 8192 on a GPU, "
        "2048 on a CPU, at least the sequences.",
        type=POSITIVE,
        metavar="N",
    )
    max_num_waiting: int = option(
        1024,
        "Max requests without a first token; one more is refused with RESOURCE_EXHAUSTED.",
        type=POSITIVE,
        metavar="N",
    )
    max_queue_seconds: float = option(
        600.0,
        "Max seconds that a request may wait to be computed. What can be expected to wait longer "
        "is refused at once, what has waited longer ends, both with RESOURCE_EXHAUSTED.",
        type=Seconds(0.1),
        metavar="SECONDS",
    )
    target_queue_seconds: float | None = option(
        None,
        "The same while more comes than can be served, which is when the queue was longer than "
        "this for 2 s. Default: 2, or 1.5 times as long as a request runs on average.",
        type=Seconds(0.1),
        metavar="SECONDS",
    )
    speculation: str = option(
        "auto",
        "ngram guesses tokens that repeat earlier ones, so that a step gives several; auto does "
        "so on a CPU.",
        type=click.Choice(SPECULATIONS),
    )

    def step_size_on(self, device_type: str) -> StepSize:
        """As configured, or what suits the device."""
        seqs, tokens = _CPU_STEP if device_type == "cpu" else _GPU_STEP
        if self.max_num_batched_tokens is not None:
            seqs = min(seqs, self.max_num_batched_tokens)
        seqs = self.max_num_seqs or seqs
        return StepSize(seqs, self.max_num_batched_tokens or max(tokens, seqs))

    def speculates_on(self, device_type: str) -> bool:
        """Whether tokens are guessed there."""
        return self.speculation == "ngram" or (self.speculation == "auto" and device_type == "cpu")

    def __post_init__(self) -> None:
        check(self)
        seqs, tokens = self.max_num_seqs, self.max_num_batched_tokens
        if seqs is not None and tokens is not None and tokens < seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({tokens}) must be at least max_num_seqs ({seqs}), so "
                "that every sequence can move in a step"
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything the engine is built from."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


@dataclass(frozen=True, slots=True)
class WatchdogConfig:
    """When an engine is given up."""

    max_step_seconds: float = option(
        30.0,
        "A step that takes this long, and ten times as long as any of its size before, is stuck: "
        "the service ends.",
        type=Seconds(0.1),
        metavar="SECONDS",
    )


@dataclass(frozen=True, slots=True)
class EngineServiceConfig:
    """The engine, and the server in front of it."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    server: ServerConfig = field(default_factory=lambda: ServerConfig(port=DEFAULT_ENGINE_PORT))
    logs: LogConfig = field(default_factory=LogConfig)


def parse_args(argv: Sequence[str]) -> EngineServiceConfig:
    """Reads the command line and the environment. Raises ConfigError."""
    about = "Serves folovllm.v1.EngineService: token ids in, token ids out."
    return parse(EngineServiceConfig(), "python -m engine_service", about, argv, SERVICE)

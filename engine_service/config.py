"""What the engine service is started with. Frozen, checked when made, handed down in pieces.

What is discovered later (number of KV blocks, context length) is returned by who discovers it,
never written back.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from folovllm.errors import ConfigError
from folovllm.serving.args import add_server_arguments, parse_with_environment, server_config
from folovllm.serving.logs import LogFormat
from folovllm.serving.server import ServerConfig

DEFAULT_PORT = 50052
QUANTIZATIONS = ("none", "int8", "int4")
SPECULATIONS = ("auto", "none", "ngram")
CACHE_DTYPES = ("auto", "fp8")
CPU_BLOCK_SIZE = 16
GPU_BLOCK_SIZE = 64
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how it is held."""

    model: str | None = None
    """A folder or a hub id; None is the embedded demo model."""
    dtype: str = "auto"
    """float32, bfloat16 or float16; auto is the checkpoint's own where the device has it."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto is the first GPU, or the CPU where there is none."""
    max_model_len: int | None = None
    """Most tokens of prompt and completion together; None is the model's own limit."""
    deterministic: bool = False
    """Give a request the same tokens whatever is computed beside it; takes longer."""
    quantization: str = "none"
    """none, or int8 or int4: a CPU's projections in so many bits, made when they are loaded."""

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}")
        _require(
            self.quantization in QUANTIZATIONS,
            f"quantization must be one of {', '.join(QUANTIZATIONS)}",
        )
        _require_positive("max_model_len", self.max_model_len)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The paged KV cache."""

    block_size: int | None = None
    """Tokens in one block; None is 64 on a GPU and 16 on a CPU."""
    num_blocks: int | None = None
    """Blocks in the pool; None takes what the memory gives."""
    memory_utilization: float | None = None
    """Share of the device's free memory, after the weights, that the pool may take; None is 0.9 of
    a GPU's and 0.5 of the main memory."""
    dtype: str = "auto"
    """Of keys and values: auto is the model's, fp8 takes half the memory of 16 bits, on GPUs."""
    enable_prefix_caching: bool = True
    """Keep the KV of finished requests and share it with prompts that begin alike."""

    def block_size_on(self, device_type: str) -> int:
        """As configured, or what suits the device."""
        return self.block_size or (CPU_BLOCK_SIZE if device_type == "cpu" else GPU_BLOCK_SIZE)

    def __post_init__(self) -> None:
        _require_positive("block_size", self.block_size)
        _require_positive("num_blocks", self.num_blocks)
        share = self.memory_utilization
        _require(share is None or 0 < share <= 1, "memory_utilization must be in (0, 1]")
        _require(
            self.dtype in CACHE_DTYPES, f"kv_cache_dtype must be one of {', '.join(CACHE_DTYPES)}"
        )


class StepSize(NamedTuple):
    """What one step may hold."""

    max_num_seqs: int
    max_num_batched_tokens: int


_CPU_STEP, _GPU_STEP = StepSize(64, 2048), StepSize(256, 8192)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What one step may hold, and how long the queue may grow."""

    max_num_seqs: int | None = None
    """Most sequences that run at once; None is 256 on a GPU and 64 on a CPU, within what a step
    computes."""
    max_num_batched_tokens: int | None = None
    """Most tokens that one step computes; longer prompts are computed in chunks. None is 8192 on a
    GPU and 2048 on a CPU, or what the sequences need."""
    max_num_waiting: int = 1024
    """Most requests without a first token; one more is refused with RESOURCE_EXHAUSTED."""
    speculation: str = "auto"
    """none, or ngram: what repeats earlier text is guessed, and several tokens come in a step. auto
    is ngram on a CPU; on a GPU the next step is launched before the tokens of one are known."""

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
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_num_waiting"):
            _require_positive(name, getattr(self, name))
        _require(
            self.speculation in SPECULATIONS,
            f"speculation must be one of {', '.join(SPECULATIONS)}",
        )
        seqs, tokens = self.max_num_seqs, self.max_num_batched_tokens
        _require(
            seqs is None or tokens is None or tokens >= seqs,
            f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
            f"max_num_seqs ({self.max_num_seqs}), so that every sequence can move in a step",
        )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything the engine is built from."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


@dataclass(frozen=True, slots=True)
class EngineServiceConfig:
    """The engine, and the server in front of it."""

    engine: EngineConfig
    server: ServerConfig
    log_format: LogFormat


def parse_args(argv: Sequence[str]) -> EngineServiceConfig:
    """Reads the command line and the environment. Raises ConfigError."""
    parser = argparse.ArgumentParser("engine_service", description="Token ids in, token ids out.")
    model, cache, scheduler = ModelConfig(), CacheConfig(), SchedulerConfig()
    add = parser.add_argument
    add("--model", metavar="PATH_OR_ID", help="a model's folder or hub id (the embedded model)")
    add("--dtype", default=model.dtype, choices=DTYPES, help="(%(default)s)")
    add("--device", default=model.device, help="cpu, cuda, cuda:N or auto (%(default)s)")
    add("--max-model-len", type=int, help="most tokens of prompt and answer (the model's own)")
    add(
        "--deterministic",
        action="store_true",
        help="give a request the same tokens whatever is computed beside it; slower",
    )
    add(
        "--quantization",
        default=model.quantization,
        choices=QUANTIZATIONS,
        help="of the weights, when they are loaded; for cpu (%(default)s)",
    )
    add("--block-size", type=int, help="tokens a block (64 on a GPU, 16 on a CPU)")
    add(
        "--kv-cache-dtype",
        default=cache.dtype,
        choices=CACHE_DTYPES,
        help="of keys and values; fp8 halves them, on a GPU (%(default)s)",
    )
    add("--num-blocks", type=int, help="KV cache blocks (what the memory gives)")
    add(
        "--memory-utilization",
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="of the free memory, for the KV cache (0.9 of a GPU's, 0.5 of the main memory)",
    )
    add("--no-prefix-caching", action="store_true", help="share no KV between requests")
    add(
        "--max-num-seqs",
        type=int,
        help="most sequences that run at once (256 on a GPU, 64 on a CPU)",
    )
    add(
        "--max-num-batched-tokens",
        type=int,
        help="most tokens in a step (8192 on a GPU, 2048 on a CPU)",
    )
    add(
        "--max-num-waiting",
        type=int,
        default=scheduler.max_num_waiting,
        help="most requests without a first token (%(default)s)",
    )
    add(
        "--speculation",
        default=scheduler.speculation,
        choices=SPECULATIONS,
        help="ngram guesses tokens that repeat earlier ones; auto does so on a CPU (%(default)s)",
    )
    add_server_arguments(parser, DEFAULT_PORT)
    args = parse_with_environment(parser, argv)
    engine = EngineConfig(
        ModelConfig(
            args.model,
            args.dtype,
            args.device,
            args.max_model_len,
            args.deterministic,
            args.quantization,
        ),
        CacheConfig(
            args.block_size,
            args.num_blocks,
            args.memory_utilization,
            args.kv_cache_dtype,
            not args.no_prefix_caching,
        ),
        SchedulerConfig(
            args.max_num_seqs,
            args.max_num_batched_tokens,
            args.max_num_waiting,
            args.speculation,
        ),
    )
    return EngineServiceConfig(engine, server_config(args), args.log_format)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive(name: str, value: int | None) -> None:
    _require(value is None or value >= 1, f"{name} must be at least 1, got {value}")

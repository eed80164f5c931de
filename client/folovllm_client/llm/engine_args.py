"""EngineArgs: vLLM's flat arguments, and ours, for the model that a process loads.

docs/vllm.md lists every argument of vLLM: which means the same here, which differs, and why the
others are refused.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, NoReturn, TypedDict, Unpack, get_args, get_type_hints

from folovllm.errors import ConfigError
from folovllm.vllm_names import no_effect

if TYPE_CHECKING:
    from engine_service.config import EngineConfig

_DTYPE_NAMES = {"half": "float16", "float": "float32"}

# The engine's own names of what has vLLM's name here.
_NAMES_HERE = {
    "num_blocks": "num_gpu_blocks_override",
    "memory_utilization": "gpu_memory_utilization",
}

# The value that asks for what happens anyway, and why no other value changes that.
_WITHOUT_EFFECT: dict[str, tuple[object, str]] = {
    "enforce_eager": (
        False,
        "on a GPU decode steps always run as CUDA graphs, and on a CPU there are none",
    ),
    "swap_space": (0, "the KV of a preempted request is computed again, not swapped"),
    "disable_log_stats": (True, "a model in this process logs no statistics"),
}


class EngineOptions(TypedDict, total=False):
    """Everything but the model; EngineArgs has the defaults and what each means."""

    tokenizer: str | None
    revision: str | None
    tokenizer_revision: str | None
    trust_remote_code: bool
    dtype: object
    quantization: str | None
    max_model_len: int | None
    device: str
    deterministic: bool
    tensor_parallel_size: int
    gpu_memory_utilization: float | None
    kv_cache_dtype: str
    block_size: int | None
    num_gpu_blocks_override: int | None
    enable_prefix_caching: bool | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    speculation: str
    seed: int | None
    enforce_eager: bool
    swap_space: float
    disable_log_stats: bool


@dataclass(init=False)
class EngineArgs:
    """How to load and run a model in this process; None means the default.

    Raises ConfigError for an unknown name or a value that cannot be served. An argument that has no
    effect here is warned of by name.
    """

    model: str | None = None
    """A folder, or an id on the hub; by default the embedded model."""
    tokenizer: str | None = None
    """Folder or hub id of tokenizer and chat template. Default: the model's own, which it must
    agree with."""
    revision: str | None = None
    """Of a model on the hub: a branch, tag or commit."""
    tokenizer_revision: str | None = None
    """Of a tokenizer on the hub. Default for the model's own tokenizer: `revision`."""
    trust_remote_code: bool = False
    """Accepted, and warned of: nothing that a model brings is executed."""
    dtype: object = "auto"
    """Of the weights: auto, half, float16, bfloat16, float, float32, or one of torch's."""
    quantization: str | None = None
    """int8 or int4, on a CPU."""
    max_model_len: int | None = None
    """Max tokens of prompt and completion together. Default: the model's own limit."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto is the first GPU, if there is one."""
    deterministic: bool = False
    """Give a request the same tokens whatever is computed beside it."""
    tensor_parallel_size: int = 1
    """1: several GPUs are served by the engine as a service."""
    gpu_memory_utilization: float | None = None
    """Share of the memory that is free after the weights, which the KV cache may take. Default: 0.9
    of a GPU's, 0.5 of the main memory."""
    kv_cache_dtype: str = "auto"
    """auto is the model's; fp8 halves the KV cache, on a GPU."""
    block_size: int | None = None
    """Tokens in one block of the KV cache. Default: 64 on a GPU, 16 on a CPU."""
    num_gpu_blocks_override: int | None = None
    """Blocks of the KV cache, on a CPU too. Default: as many as the memory holds."""
    enable_prefix_caching: bool | None = True
    """Keep the KV of finished requests for prompts that begin alike."""
    max_num_seqs: int | None = None
    """Max sequences that run at once. Default: 256 on a GPU, 64 on a CPU."""
    max_num_batched_tokens: int | None = None
    """Max tokens of a step. Default: 8192 on a GPU, 2048 on a CPU."""
    speculation: str = "auto"
    """none, ngram, or auto, which is ngram on a CPU."""
    seed: int | None = None
    """Makes the draws of requests without a seed of their own repeatable, in their order."""
    enforce_eager: bool = False
    """True has no effect, and is warned of."""
    swap_space: float = 0
    """More than 0 has no effect, and is warned of."""
    disable_log_stats: bool = True
    """False has no effect, and is warned of."""

    def __init__(self, model: str | Path | None = None, **options: Unpack[EngineOptions]) -> None:
        for name in options:
            if name not in EngineOptions.__annotations__:
                refuse_unknown(name, EngineOptions.__annotations__)
        given = {name: value for name, value in options.items() if value is not None}
        self.model = None if model is None else str(model)
        for name, kind in get_type_hints(EngineOptions).items():
            value = given.get(name, getattr(EngineArgs, name))
            kinds = get_args(kind) or (kind,)
            if not isinstance(value, (*kinds, int) if float in kinds else kinds):
                raise ConfigError(f"{name} must be {_in_words(kinds)}, got {value!r}")
            setattr(self, name, value)
        self._check()

    def _check(self) -> None:
        for name, lowest in (("tensor_parallel_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name} must be at least {lowest}, got {value}")
        if self.tensor_parallel_size != 1:
            model = "" if self.model is None else f" --model {self.model}"
            raise ConfigError(
                f"tensor_parallel_size {self.tensor_parallel_size}: in this process a model has "
                "one device; serve it on several with: torchrun --standalone --nproc-per-node "
                f"{self.tensor_parallel_size} -m engine_service{model}"
            )
        for name, (without_effect, reason) in _WITHOUT_EFFECT.items():
            value = getattr(self, name)
            if value != without_effect:
                no_effect(f"{name}={value!r}", reason)

    def engine_config(self) -> "EngineConfig":
        """The configuration of the engine. Raises ConfigError for a value out of range."""
        try:
            return self._engine_config()
        except ConfigError as error:
            name, _, reason = str(error).partition(" ")
            raise ConfigError(f"{_NAMES_HERE.get(name, name)} {reason}") from None

    def _engine_config(self) -> "EngineConfig":
        from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig

        dtype = str(self.dtype).removeprefix("torch.")
        model = ModelConfig(
            self.model,
            _DTYPE_NAMES.get(dtype, dtype),
            self.device,
            self.max_model_len,
            deterministic=self.deterministic,
            quantization=self.quantization or "none",
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
        cache = CacheConfig(
            self.block_size,
            self.num_gpu_blocks_override,
            self.gpu_memory_utilization,
            self.kv_cache_dtype,
            enable_prefix_caching=bool(self.enable_prefix_caching),
        )
        scheduler = SchedulerConfig(
            self.max_num_seqs, self.max_num_batched_tokens, speculation=self.speculation
        )
        return EngineConfig(model, cache, scheduler)


AsyncEngineArgs = EngineArgs
"""vLLM's name for those of AsyncLLM."""


def refuse_unknown(name: str, known: Iterable[str]) -> NoReturn:
    """Raises ConfigError for an argument that does not exist here."""
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise ConfigError(
        f"{name} is not an argument here{hint}; docs/vllm.md lists vLLM's arguments, and what "
        "replaces those that are refused"
    )


def _in_words(kinds: Iterable[type]) -> str:
    return " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)

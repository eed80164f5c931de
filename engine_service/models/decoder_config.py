"""DecoderConfig: the shape of a decoder-only model, read from its folder's config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine_service.layers.rope_config import RopeConfig
from folovllm.errors import ConfigError
from folovllm.model_files import read_json

ARCHITECTURES = ("Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM")
_DEFAULT_KEYS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
# Qwen3 sets the size of a head on its own; where config.json leaves it out, this is meant.
_QWEN3_HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What the decoder is built from. One decoder serves all architectures; flags tell them apart.

    `dtype` names the checkpoint's number type; `eos_token_ids` end a generation.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str
    eos_token_ids: tuple[int, ...]

    @property
    def num_weights(self) -> int:
        """Elements of all matrices that a token is multiplied with."""
        query_size = self.num_attention_heads * self.head_dim
        kv_size = self.num_key_value_heads * self.head_dim
        layer = 2 * (query_size + kv_size) + 3 * self.intermediate_size
        return self.hidden_size * (self.num_hidden_layers * layer + self.vocab_size)

    @classmethod
    def from_folder(cls, folder: Path) -> "DecoderConfig":
        """Reads config.json, and eos ids from generation_config.json where it has them.

        Raises ConfigError, naming the key, for what is missing, malformed or not supported.
        """
        config = read_json(folder / "config.json")
        architecture = _architecture(config)
        _refuse_unsupported(config)
        heads = _count(config, "num_attention_heads")
        kv_heads = _count(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise ConfigError(
                f"config.json: num_attention_heads ({heads}) must be a multiple of "
                f"num_key_value_heads ({kv_heads})"
            )
        hidden_size = _count(config, "hidden_size")
        qwen3_default = architecture == "Qwen3ForCausalLM" and "head_dim" not in config
        head_dim = _count(
            config, "head_dim", _QWEN3_HEAD_DIM if qwen3_default else hidden_size // heads
        )
        if head_dim % 2:
            raise ConfigError(f"config.json: head_dim must be even, got {head_dim}")
        attention_bias = bool(config.get("attention_bias", False))
        is_qwen2 = architecture == "Qwen2ForCausalLM"
        return cls(
            architecture=architecture,
            vocab_size=_count(config, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_count(config, "intermediate_size"),
            num_hidden_layers=_count(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=_count(config, "max_position_embeddings"),
            rms_norm_eps=_positive(config, "rms_norm_eps", 1e-6),
            rope=RopeConfig.from_json(config),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=is_qwen2 or attention_bias,
            o_bias=not is_qwen2 and attention_bias,
            mlp_bias=architecture == "LlamaForCausalLM" and bool(config.get("mlp_bias", False)),
            qk_norm=architecture == "Qwen3ForCausalLM",
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            eos_token_ids=_eos_token_ids(folder, config),
        )


def load_generation_defaults(folder: Path) -> dict[str, float | int]:
    """The sampling defaults that generation_config.json lists, as they stand; empty without it.

    Only repetition_penalty, temperature, top_k, top_p and min_p count, whatever do_sample says.
    """
    path = folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {}
    defaults: dict[str, float | int] = {}
    for key in _DEFAULT_KEYS:
        value = values.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{path}: {key} must be a number, got {value!r}")
        defaults[key] = value
    return defaults


def _architecture(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise ConfigError(
            f"config.json names no architecture; supported are {', '.join(ARCHITECTURES)}"
        )
    if names[0] not in ARCHITECTURES:
        raise ConfigError(
            f"architecture {names[0]} is not supported; supported are {', '.join(ARCHITECTURES)}"
        )
    return str(names[0])


def _refuse_unsupported(config: Mapping[str, object]) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"config.json: hidden_act {activation!r} is not supported, only silu")
    if config.get("quantization_config"):
        raise ConfigError("config.json: quantized checkpoints are not supported; use one in 16 bit")
    if config.get("use_sliding_window") and config.get("sliding_window") is not None:
        layer_types = config.get("layer_types")
        layers = _count(config, "num_hidden_layers")
        if isinstance(layer_types, list):
            windowed = "sliding_attention" in layer_types
        else:
            windowed = _count(config, "max_window_layers", layers, least=0) < layers
        if windowed:
            raise ConfigError("config.json: sliding window attention is not supported")


def _eos_token_ids(folder: Path, config: Mapping[str, object]) -> tuple[int, ...]:
    """From generation_config.json, where the fuller list is, else from config.json."""
    path = folder / "generation_config.json"
    value = read_json(path).get("eos_token_id") if path.is_file() else None
    if value is None:
        value = config.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids):
        raise ConfigError(f"{folder}: eos_token_id must be token ids, got {value!r}")
    return tuple(ids)


def _count(
    config: Mapping[str, object], key: str, default: int | None = None, least: int = 1
) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"config.json: {key} must be a whole number from {least}, got {value!r}")
    return value


def _positive(config: Mapping[str, object], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"config.json: {key} must be a positive number, got {value!r}")
    return float(value)

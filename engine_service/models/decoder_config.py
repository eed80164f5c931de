"""DecoderConfig: what a decoder is built from, read from its folder's config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from engine_service.layers.rope_config import RopeConfig
from engine_service.models.config_reader import ConfigReader
from engine_service.models.layer_plan import Cut, DecoderPlan, LayerPlan, Norm, Projection
from engine_service.models.registry import FAMILIES, architecture_of
from folovllm.errors import ConfigError
from folovllm.model_files import read_json

_DEFAULT_KEYS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")
# Flags that checkpoints list and that must be off.
_OFF = ("rope_interleaved", "use_mrope")
_MAX_WINDOW_LAYERS = 28


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """A decoder's plan, and what else its families have in common.

    `dtype` names the checkpoint's number type; `eos_token_ids` end a generation.
    """

    architecture: str
    plan: DecoderPlan
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    dtype: str
    eos_token_ids: tuple[int, ...]

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state."""
        return self.plan.embedding.inputs

    @property
    def num_hidden_layers(self) -> int:
        """Layers, each with its own KV."""
        return len(self.plan.layers)

    @property
    def num_attention_heads(self) -> int:
        """Query heads; those of a rank, as the next one."""
        return self.plan.attention.num_heads

    @property
    def num_key_value_heads(self) -> int:
        """Key heads."""
        return self.plan.attention.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.plan.attention.head_dim

    @property
    def num_weights(self) -> int:
        """Elements of all matrices that a token is multiplied with."""
        layers = (weight for prefix, op in self.plan.numbered() for weight in op.weights(prefix))
        matrices = sum(prod(weight.shape) for weight in layers if len(weight.shape) == 2)
        return matrices + self.vocab_size * self.hidden_size

    @classmethod
    def from_folder(cls, folder: Path) -> "DecoderConfig":
        """Reads config.json, and eos ids from generation_config.json if it has them.

        Raises ConfigError, naming the key, for what is missing, malformed, unknown or not
        supported.
        """
        path = folder / "generation_config.json"
        generation = read_json(path) if path.is_file() else {}
        return cls.from_json(read_json(folder / "config.json"), generation.get("eos_token_id"))

    @classmethod
    def from_json(
        cls, values: Mapping[str, object], eos_token_id: object = None
    ) -> "DecoderConfig":
        """Reads a parsed config.json; `eos_token_id` comes before its own. Raises ConfigError."""
        config = ConfigReader(values)
        architecture = architecture_of(config)
        _refuse_unsupported(config)
        layers = FAMILIES[architecture](config)
        own_eos = config.get("eos_token_id")
        decoder_config = cls(
            architecture=architecture,
            plan=_plan(config, layers),
            vocab_size=config.count("vocab_size"),
            max_position_embeddings=config.count("max_position_embeddings"),
            rms_norm_eps=config.positive("rms_norm_eps", 1e-6),
            rope=RopeConfig.from_json(config),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            eos_token_ids=_token_ids(own_eos if eos_token_id is None else eos_token_id),
        )
        config.refuse_unread()
        return decoder_config


def load_generation_defaults(folder: Path) -> dict[str, float | int]:
    """The sampling defaults that generation_config.json lists, unchanged; empty without it.

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


def _plan(config: ConfigReader, layers: tuple[LayerPlan, ...]) -> DecoderPlan:
    """What surrounds the layers is the same in all families."""
    rows, size = config.count("vocab_size"), config.count("hidden_size")

    def table(name: str) -> Projection:
        return Projection(name, ((name, rows),), size, Cut.OUTPUTS)

    head = None if config.flag("tie_word_embeddings") else table("lm_head")
    return DecoderPlan(table("model.embed_tokens"), layers, Norm("model.norm", size), head)


def _refuse_unsupported(config: ConfigReader) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"config.json: hidden_act {activation!r} is not supported, only silu")
    if config.get("quantization_config"):
        raise ConfigError("config.json: quantized checkpoints are not supported; use one in 16 bit")
    for key in _OFF:
        if config.flag(key):
            raise ConfigError(f"config.json: {key} is not supported")
    layer_types = config.get("layer_types")
    types = set(map(str, layer_types)) if isinstance(layer_types, list) else set()
    if unknown := sorted(types - {"full_attention", "sliding_attention"}):
        raise ConfigError(f"config.json: layer type {unknown[0]} is not supported")
    # Missing keys have the defaults of Qwen's configs in transformers.
    first_windowed = config.count("max_window_layers", _MAX_WINDOW_LAYERS, minimum=0)
    has_windowed = first_windowed < config.count("num_hidden_layers")
    slides = "sliding_attention" in types if types else has_windowed
    window, is_used = config.get("sliding_window", 4096), config.flag("use_sliding_window")
    if is_used and window is not None and slides:
        raise ConfigError("config.json: sliding window attention is not supported")


def _token_ids(value: object) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token_id, int) and token_id >= 0 for token_id in ids):
        raise ConfigError(f"config.json: eos_token_id must be token ids, got {value!r}")
    return tuple(ids)

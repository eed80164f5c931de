"""RopeConfig: how a checkpoint turns positions into angles, read from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from folovllm.errors import ConfigError

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_DEFAULT_THETA = 10000.0
_OTHER_KEYS = {"finetuned", "partial_rotary_factor", "rope_theta", "type"}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding: base `theta`, and the scaling of its frequencies by `rope_type`.

    `default` uses theta only; `linear` divides by factor; `llama3` uses factor, low_freq_factor,
    high_freq_factor and original_max_position_embeddings; `yarn` uses factor, the betas, truncate,
    original_max_position_embeddings, and attention_factor or else the mscales.
    """

    theta: float = _DEFAULT_THETA
    rope_type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    @classmethod
    def from_json(cls, config: Mapping[str, object]) -> "RopeConfig":
        """Reads a parsed config.json, in the older form (rope_theta, rope_scaling) or the newer.

        Raises ConfigError for what is not supported and for values that make no sense.
        """
        newer, older = config.get("rope_parameters"), config.get("rope_scaling")
        parameters = newer or older or {}
        if not isinstance(parameters, Mapping):
            raise ConfigError("config.json: rope_parameters must be an object")
        rope_type = parameters.get("rope_type", parameters.get("type", "default"))
        if rope_type not in ROPE_TYPES:
            raise ConfigError(
                f"config.json: rope type {rope_type!r} is not supported; "
                f"supported are {', '.join(ROPE_TYPES)}"
            )
        rotated = _number(config, "partial_rotary_factor", 1.0)
        if _number(parameters, "partial_rotary_factor", rotated) != 1.0:
            raise ConfigError("config.json: partial_rotary_factor other than 1 is not supported")
        known = {field.name for field in fields(cls)} | _OTHER_KEYS
        for key, value in parameters.items():
            if value and key not in known:
                raise ConfigError(f"config.json: rope parameter {key} is not supported")
        max_len = _number(config, "max_position_embeddings", 0.0)
        original = _number(parameters, "original_max_position_embeddings", max_len)
        return cls(
            theta=_number(parameters, "rope_theta", _number(config, "rope_theta", _DEFAULT_THETA)),
            rope_type=rope_type,
            factor=_factor(parameters, rope_type, max_len, original),
            original_max_position_embeddings=int(original),
            low_freq_factor=_number(parameters, "low_freq_factor", 1.0),
            high_freq_factor=_number(parameters, "high_freq_factor", 4.0),
            beta_fast=_number(parameters, "beta_fast", 32.0),
            beta_slow=_number(parameters, "beta_slow", 1.0),
            truncate=bool(parameters.get("truncate", True)),
            attention_factor=_optional_number(parameters, "attention_factor"),
            mscale=_optional_number(parameters, "mscale"),
            mscale_all_dim=_optional_number(parameters, "mscale_all_dim"),
        )


def _factor(
    parameters: Mapping[str, object], rope_type: str, max_len: float, original: float
) -> float:
    """The scaling factor; yarn may leave it to the ratio of the two context lengths."""
    if rope_type == "default":
        return 1.0
    if parameters.get("factor") is None and not (rope_type == "yarn" and original > 0):
        raise ConfigError(f"config.json: rope type {rope_type} needs a factor")
    factor = _number(parameters, "factor", max_len / original if original else 1.0)
    if factor <= 0:
        raise ConfigError(f"config.json: rope factor must be positive, got {factor:g}")
    return factor


def _number(values: Mapping[str, object], key: str, default: float) -> float:
    value = values.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"config.json: {key} must be a number, got {value!r}")
    return float(value)


def _optional_number(values: Mapping[str, object], key: str) -> float | None:
    return None if values.get(key) is None else _number(values, key, 0.0)

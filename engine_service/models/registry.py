"""Which families there are. Needs no torch, so that a model can be judged without it."""

from collections.abc import Callable, Mapping

from engine_service.models.config_reader import ConfigReader
from engine_service.models.families.llama import llama
from engine_service.models.families.qwen import qwen2, qwen3
from engine_service.models.layer_plan import LayerPlan
from folovllm.errors import ConfigError

FAMILIES: Mapping[str, Callable[[ConfigReader], tuple[LayerPlan, ...]]] = {
    "Qwen3ForCausalLM": qwen3,
    "Qwen2ForCausalLM": qwen2,
    "LlamaForCausalLM": llama,
}
"""Reads the layers of each architecture from its config.json."""


def architecture_of(config: Mapping[str, object]) -> str:
    """The first that config.json names. Raises ConfigError if it is not supported."""
    names = config.get("architectures")
    supported = f"supported are {', '.join(FAMILIES)}"
    if not isinstance(names, list) or not names:
        raise ConfigError(f"config.json names no architecture; {supported}")
    if names[0] not in FAMILIES:
        raise ConfigError(f"architecture {names[0]} is not supported; {supported}")
    return str(names[0])

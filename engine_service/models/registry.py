"""Which families there are, and which layer in plain torch computes each operation of a plan."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from engine_service.models.config_reader import ConfigReader
from engine_service.models.families.llama import llama
from engine_service.models.families.qwen import qwen2, qwen3
from engine_service.models.layer_plan import Attention, LayerPlan, Mlp, Norm, Op
from engine_service.models.torch_layers import AttentionLayer, LayerTools, MlpLayer
from folovllm.errors import ConfigError

FAMILIES: Mapping[str, Callable[[ConfigReader], tuple[LayerPlan, ...]]] = {
    "Qwen3ForCausalLM": qwen3,
    "Qwen2ForCausalLM": qwen2,
    "LlamaForCausalLM": llama,
}
"""Reads the layers of each architecture from its config.json."""

LAYERS: Mapping[type[Op], Callable[[Any, LayerTools], nn.Module]] = {
    Norm: lambda op, tools: tools.norm(op),
    Attention: AttentionLayer,
    Mlp: MlpLayer,
}
"""Makes the module of an operation. Children's modules are attributes named as the fields are."""


def architecture_of(config: Mapping[str, object]) -> str:
    """The first that config.json names. Raises ConfigError if it is not supported."""
    names = config.get("architectures")
    supported = f"supported are {', '.join(FAMILIES)}"
    if not isinstance(names, list) or not names:
        raise ConfigError(f"config.json names no architecture; {supported}")
    if names[0] not in FAMILIES:
        raise ConfigError(f"architecture {names[0]} is not supported; {supported}")
    return str(names[0])

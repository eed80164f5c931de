"""Qwen2 and Qwen3: Llama with other biases, and norms of queries and keys."""

from engine_service.models.config_reader import ConfigReader
from engine_service.models.families.llama import pre_norm_layers
from engine_service.models.layer_plan import LayerPlan

_QWEN3_HEAD_DIM = 128


def qwen2(config: ConfigReader) -> tuple[LayerPlan, ...]:
    """The layers of Qwen2ForCausalLM, whose queries, keys and values always have biases."""
    config.flag("attention_bias")  # has no effect
    return pre_norm_layers(config, qkv_bias=True)


def qwen3(config: ConfigReader) -> tuple[LayerPlan, ...]:
    """The layers of Qwen3ForCausalLM."""
    bias = config.flag("attention_bias")
    return pre_norm_layers(
        config, qkv_bias=bias, o_bias=bias, qk_norm=True, head_dim=_QWEN3_HEAD_DIM
    )

"""Llama, and the pre-norm layer that other families share with it."""

from engine_service.models.config_reader import ConfigReader
from engine_service.models.layer_plan import Attention, Cut, LayerPlan, Mlp, Norm, Projection
from folovllm.errors import ConfigError


def llama(config: ConfigReader) -> tuple[LayerPlan, ...]:
    """The layers of LlamaForCausalLM."""
    bias = config.flag("attention_bias")
    return pre_norm_layers(config, qkv_bias=bias, o_bias=bias, mlp_bias=config.flag("mlp_bias"))


def pre_norm_layers(
    config: ConfigReader,
    *,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    head_dim: int | None = None,
) -> tuple[LayerPlan, ...]:
    """As many alike as config.json says. `head_dim` applies if config.json has no such key."""
    hidden, size = config.count("hidden_size"), config.count("intermediate_size")
    heads = config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ConfigError(
            f"config.json: num_attention_heads ({heads}) must be a multiple of "
            f"num_key_value_heads ({kv_heads})"
        )
    default = hidden // heads if head_dim is None or "head_dim" in config else head_dim
    head_dim = config.count("head_dim", default)
    if head_dim % 2:
        raise ConfigError(f"config.json: head_dim must be even, got {head_dim}")
    query, kv = heads * head_dim, kv_heads * head_dim
    qkv = (("q_proj", query), ("k_proj", kv), ("v_proj", kv))
    gate_up = (("gate_proj", size), ("up_proj", size))
    layer: LayerPlan = (
        (
            Norm("input_layernorm", hidden),
            Attention(
                "self_attn",
                heads,
                kv_heads,
                head_dim,
                qkv=Projection("qkv_proj", qkv, hidden, Cut.OUTPUTS, qkv_bias),
                output=Projection("o_proj", (("o_proj", hidden),), query, Cut.INPUTS, o_bias),
                q_norm=Norm("q_norm", head_dim) if qk_norm else None,
                k_norm=Norm("k_norm", head_dim) if qk_norm else None,
            ),
        ),
        (
            Norm("post_attention_layernorm", hidden),
            Mlp(
                "mlp",
                gate_up=Projection("gate_up_proj", gate_up, hidden, Cut.OUTPUTS, mlp_bias),
                down=Projection("down_proj", (("down_proj", hidden),), size, Cut.INPUTS, mlp_bias),
            ),
        ),
    )
    return (layer,) * config.count("num_hidden_layers")

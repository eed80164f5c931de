"""Random small checkpoints, written by transformers, whose greedy choices have real margins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Tensors as small as these gain nothing from threads.
torch.set_num_threads(1)

VOCAB_SIZE = 384
EOS_TOKEN_ID = 1

_MODELS: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    Qwen3Config: Qwen3ForCausalLM,
    Qwen2Config: Qwen2ForCausalLM,
    LlamaConfig: LlamaForCausalLM,
}
# Saved in several files, so that loading from an index is covered too.
SHARDED = frozenset({"qwen3_untied", "qwen3_sharded"})


def _config(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": None,
    }
    return kind(**{**values, **changes})


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

TINY_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_grouped": lambda: _config(Qwen3Config, head_dim=16),
    "qwen3_all_heads": lambda: _config(
        Qwen3Config, num_attention_heads=8, num_key_value_heads=8, head_dim=8
    ),
    "qwen3_wide_heads": lambda: _config(Qwen3Config, head_dim=32),
    "qwen3_tied": lambda: _config(Qwen3Config, head_dim=16, tie_word_embeddings=True),
    "qwen3_untied": lambda: _config(Qwen3Config, head_dim=24, num_hidden_layers=3),
    "qwen3_bias_yarn": lambda: _config(
        Qwen3Config, head_dim=16, attention_bias=True, rope_parameters=_YARN_ROPE
    ),
    "qwen2_bias": lambda: _config(Qwen2Config),
    "qwen2_linear": lambda: _config(
        Qwen2Config, tie_word_embeddings=True, rope_parameters=_LINEAR_ROPE
    ),
    "llama_scaled": lambda: _config(LlamaConfig, rope_parameters=_LLAMA3_ROPE),
    "llama_biases": lambda: _config(
        LlamaConfig, attention_bias=True, mlp_bias=True, num_key_value_heads=1
    ),
}

# One has biases that the kernels for GPUs do not compute, and runs on the decoder in plain torch.
WITHOUT_KERNELS = "llama_biases"
WITH_KERNELS = [name for name in TINY_MODELS if name != WITHOUT_KERNELS]

# Shapes that the CPU kernels compute.
KERNEL_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_tied_wide": lambda: _config(Qwen3Config, head_dim=32, tie_word_embeddings=True),
    "qwen3_sharded": lambda: _config(
        Qwen3Config, head_dim=64, hidden_size=96, num_hidden_layers=3, vocab_size=VOCAB_SIZE + 7
    ),
    "qwen3_bias_yarn_wide": lambda: _config(
        Qwen3Config, head_dim=32, attention_bias=True, rope_parameters=_YARN_ROPE
    ),
    "qwen2_bias_wide": lambda: _config(Qwen2Config, hidden_size=128),
    "llama_biases_wide": lambda: _config(
        LlamaConfig,
        hidden_size=256,
        attention_bias=True,
        mlp_bias=True,
        num_key_value_heads=1,
        rope_parameters=_LLAMA3_ROPE,
    ),
}

# For whole engines under Triton's interpreter, where every kernel takes long.
INTERPRETED_MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3_one_layer": lambda: _config(Qwen3Config, head_dim=16, num_hidden_layers=1)
}


def make_checkpoint(
    name: str, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """Writes a random model of one of the tables above to a folder, which comes back."""
    config = (TINY_MODELS | KERNEL_MODELS | INTERPRETED_MODELS)[name]()
    model: Any = _MODELS[type(config)](config)
    _randomise(model, seed)
    size = "64KB" if name in SHARDED else "5GB"
    model.to(dtype).save_pretrained(folder, max_shard_size=size)
    return folder


def reference_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The same checkpoint as transformers runs it."""
    name = PreTrainedConfig.get_config_dict(folder)[0]["architectures"][0]
    kind: Any = next(model for model in _MODELS.values() if model.__name__ == name)
    return kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def _randomise(model: Any, seed: int) -> None:
    """Weights that keep every layer's share of the output large.

    As initialised, small models mostly repeat their input token, and near ties decide. Here layers
    outweigh the embedding in the residual stream, and the last norm has random signs, so that tied
    embeddings do not favour the input token.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            values = 1.0 + 0.2 * noise
            if name == "model.norm.weight":
                values *= noise.sign()
        elif name.endswith("bias"):
            values = 0.3 * noise
        elif "embed_tokens" in name:
            values = 0.4 * noise
        else:
            values = 2.0 * noise / parameter.shape[-1] ** 0.5
        parameter.data.copy_(values)

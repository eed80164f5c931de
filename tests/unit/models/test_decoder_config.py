"""What config.json and generation_config.json may say, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from engine_service.models.decoder_config import DecoderConfig, load_generation_defaults
from engine_service.models.layer_plan import Attention, Mlp
from folovllm.errors import ConfigError

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "eos_token_id": 7,
    "rope_theta": 1000000,
}


def read(folder: Path, generation: dict[str, Any] | None = None, **changes: Any) -> DecoderConfig:
    """The config of QWEN3 with changes; a key changed to ... is left out."""
    values = {key: value for key, value in {**QWEN3, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return DecoderConfig.from_folder(folder)


def flags_of(config: DecoderConfig) -> tuple[bool, ...]:
    """Biases of qkv, output and MLP, and norms of queries and keys."""
    (_, attention), (_, mlp) = config.plan.layers[0]
    assert isinstance(attention, Attention) and isinstance(mlp, Mlp)
    assert (attention.q_norm is None) == (attention.k_norm is None)
    biases = (attention.qkv.bias, attention.output.bias, mlp.gate_up.bias)
    assert mlp.gate_up.bias == mlp.down.bias
    return *biases, attention.q_norm is not None


def test_qwen3(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert (config.head_dim, config.num_key_value_heads, config.vocab_size) == (32, 2, 100)
    assert flags_of(config) == (False, False, False, True)
    assert config.plan.head is None and config.dtype == "bfloat16"
    assert config.rope.theta == 1e6 and config.rope.rope_type == "default"
    assert config.rms_norm_eps == 1e-5 and config.eos_token_ids == (7,)


def test_what_may_be_left_out(tmp_path: Path) -> None:
    absent: dict[str, Any] = dict.fromkeys(
        ["num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "torch_dtype"], ...
    )
    config = read(tmp_path, **absent, eos_token_id=..., rope_theta=..., head_dim=None)
    assert (config.num_key_value_heads, config.head_dim) == (4, 16)
    assert config.rms_norm_eps == 1e-6 and config.plan.head is not None
    assert config.dtype == "float32" and config.eos_token_ids == ()
    assert config.rope.theta == 10000.0
    assert read(tmp_path, head_dim=...).head_dim == 128
    llama = read(tmp_path, architectures=["LlamaForCausalLM"], head_dim=...)
    assert llama.head_dim == 16


@pytest.mark.parametrize(
    ("architecture", "flags", "expected"),
    [
        ("Qwen3ForCausalLM", {"attention_bias": True}, (True, True, False, True)),
        ("Qwen2ForCausalLM", {}, (True, False, False, False)),
        ("LlamaForCausalLM", {}, (False, False, False, False)),
        (
            "LlamaForCausalLM",
            {"attention_bias": True, "mlp_bias": True},
            (True, True, True, False),
        ),
    ],
)
def test_flags_of_the_architectures(
    tmp_path: Path, architecture: str, flags: dict[str, Any], expected: tuple[bool, ...]
) -> None:
    config = read(tmp_path, architectures=[architecture], **flags)
    assert flags_of(config) == expected


def test_rope_in_both_forms(tmp_path: Path) -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16}
    older = read(tmp_path, rope_scaling={"type": "yarn", **scaling}).rope
    newer = read(
        tmp_path,
        rope_theta=...,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1000000.0, **scaling},
    ).rope
    assert older == newer
    assert (newer.factor, newer.beta_fast, newer.beta_slow, newer.truncate) == (4, 16, 1, True)
    assert newer.original_max_position_embeddings == 32
    implied = {"type": "yarn", "original_max_position_embeddings": 32}
    assert read(tmp_path, rope_scaling=implied).rope.factor == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; supported are"),
        ({"architectures": ...}, "names no architecture"),
        ({"hidden_size": ...}, "hidden_size must be a whole number"),
        ({"vocab_size": "many"}, "vocab_size must be a whole number from 1, got 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "must be a multiple"),
        ({"head_dim": 15}, "head_dim must be even"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantized checkpoints are not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "rope type 'longrope' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope type linear needs a factor"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor must be positive"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be a number"),
        ({"rope_scaling": "linear"}, "rope_parameters must be an object"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor other than"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor other than 1"),
        ({"layer_types": ["linear_attention"] * 2}, "layer type linear_attention is not supported"),
        ({"rope_interleaved": True}, "rope_interleaved is not supported"),
        ({"rope_parameters": {"mrope_section": [1, 2]}}, "rope parameter mrope_section is not"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported for this"),
        ({"mlp_bias": True}, "mlp_bias is not supported for this architecture, got True"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be token ids"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, **changes)
    assert "\n" not in str(caught.value)


# What published config.json files have beside the sizes.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3-0.6B": (
        "Qwen3ForCausalLM",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_window_layers": 28,
            "model_type": "qwen3",
            "rope_scaling": None,
            "sliding_window": None,
            "transformers_version": "4.51.0",
            "use_cache": True,
            "use_sliding_window": False,
        },
    ),
    "Qwen2.5-7B": (
        "Qwen2ForCausalLM",
        {
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_window_layers": 28,
            "model_type": "qwen2",
            "sliding_window": 131072,
            "transformers_version": "4.40.1",
            "use_cache": True,
            "use_mrope": False,
            "use_sliding_window": False,
            "head_dim": ...,
        },
    ),
    "Llama-3.2-1B": (
        "LlamaForCausalLM",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 128000,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "mlp_bias": False,
            "model_type": "llama",
            "pretraining_tp": 1,
            "use_cache": True,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
        },
    ),
    "SmolLM2-135M": (
        "LlamaForCausalLM",
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "hidden_act": "silu",
            "initializer_range": 0.041666666666666664,
            "mlp_bias": False,
            "is_llama_config": True,
            "model_type": "llama",
            "pad_token_id": 2,
            "pretraining_tp": 1,
            "rope_interleaved": False,
            "rope_scaling": None,
            "transformers.js_config": {"dtype": "q4"},
            "use_cache": True,
            "head_dim": ...,
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read(tmp_path: Path, name: str) -> None:
    architecture, values = PUBLISHED[name]
    assert read(tmp_path, architectures=[architecture], **values).architecture == architecture


def test_metadata_is_harmless(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "_attn_implementation_autoset": True,
        "unsloth_version": "2025.1",
        "dtype": "float16",
    }
    assert read(tmp_path, **metadata, future_flag=False, other=None, more={}).dtype == "float16"


def test_all_that_transformers_writes_is_known(tmp_path: Path) -> None:
    for config in (Qwen3Config(), Qwen2Config(), LlamaConfig()):
        values = config.to_dict() | {"architectures": [f"{type(config).__name__[:-6]}ForCausalLM"]}
        DecoderConfig.from_json(values)


def test_sliding_windows_are_refused_where_they_are_used(tmp_path: Path) -> None:
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 64}
    used: list[dict[str, Any]] = [
        {**window, "max_window_layers": 1},
        {**window, "layer_types": ["full_attention", "sliding_attention"]},
        # As in transformers, which gives a missing key its default.
        {"use_sliding_window": True, "num_hidden_layers": 29},
    ]
    for changes in used:
        with pytest.raises(ConfigError, match="sliding window attention is not supported"):
            read(tmp_path, **changes)
    unused: list[dict[str, Any]] = [
        {"sliding_window": 64, "use_sliding_window": False, "max_window_layers": 0},
        {**window, "max_window_layers": 2},
        {**window, "sliding_window": None, "max_window_layers": 0},
        {**window, "layer_types": ["full_attention"] * 2},
    ]
    for changes in unused:
        assert read(tmp_path, **changes).num_hidden_layers == 2


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no config.json"):
        DecoderConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [({"eos_token_id": [3, 4]}, (3, 4)), ({"eos_token_id": 5}, (5,)), ({}, (7,))],
)
def test_eos_ids_come_from_the_generation_config_first(
    tmp_path: Path, generation: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert read(tmp_path, generation).eos_token_ids == expected


def test_generation_defaults(tmp_path: Path) -> None:
    assert load_generation_defaults(tmp_path) == {}
    listed = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None, "do_sample": False}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**listed, "repetition_penalty": 1.1, "eos_token_id": 3}))
    assert load_generation_defaults(tmp_path) == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
    }
    path.write_text(json.dumps({"top_p": "high"}))
    with pytest.raises(ConfigError, match="top_p must be a number"):
        load_generation_defaults(tmp_path)

"""The model's files, as published Qwen3 checkpoints have them, replaced one rename at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from tools.demo_model.train_tokenizer import CONTEXT, VOCAB_SIZE

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def model_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The shape of the demo model, in the words of a published config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 192,
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def new_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """An untrained model in float32."""
    settings = model_config(tokenizer)
    del settings["torch_dtype"]
    return Qwen3ForCausalLM(Qwen3Config(**settings))


def write_checkpoint(model: Qwen3ForCausalLM, tokenizer_folder: Path, folder: Path) -> None:
    """Write weights (bfloat16), configs and tokenizer; no reader ever sees half a file."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        staged = Path(scratch)
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer_folder / name, staged / name)
        _write_json(staged / "config.json", model_config(tokenizer))
        _write_json(staged / "generation_config.json", _generation_config(tokenizer))
        weights = {
            name: tensor.detach().to(torch.bfloat16).contiguous()
            for name, tensor in model.state_dict().items()
            if name != "lm_head.weight"
        }
        save_file(weights, staged / "model.safetensors", metadata={"format": "pt"})
        for file in sorted(staged.iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "do_sample": True,
        "eos_token_id": [
            tokenizer.token_to_id("<|im_end|>"),
            tokenizer.token_to_id("<|endoftext|>"),
        ],
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

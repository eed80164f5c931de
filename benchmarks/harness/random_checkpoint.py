"""Checkpoints with random weights in the shapes of real models, written once to a cache folder.

What a step costs does not depend on the weights' values. The tokenizer is byte-level, knows every
id of the vocabulary and no special ones, so both services can serve the folder.
"""

import json
import shutil
import string
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen3Config

from folovllm.installation.cache_folder import cache_folder
from folovllm.model_files import DEMO_MODEL

_QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
CONFIGS = {
    "qwen3-0.6b": _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072},
    "qwen3-1.7b": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
}
MODELS = ("demo", *CONFIGS)
_SILENT = 1e-3


def default_cache() -> Path:
    """Where checkpoints are kept unless a folder is named."""
    return cache_folder() / "benchmarks"


def checkpoint(model: str, cache: Path) -> Path:
    """The folder of one of MODELS; `demo` is the embedded one. It is written if need be."""
    if model == "demo":
        return DEMO_MODEL
    return _kept(cache / model, partial(write_checkpoint, CONFIGS[model]))


def copying_checkpoint(model: str, name: str, texts: Sequence[Sequence[int]], cache: Path) -> Path:
    """The folder, kept by its name, of a checkpoint in a real shape that says given texts.

    Random weights copy nothing. So the layers are random and nearly silent, and the row of the
    output layer that belongs to a token is the embedding of the token before it in the text. A text
    follows its first token, greedily; no token occurs twice in the texts.
    """

    def say(weights: dict[str, torch.Tensor]) -> None:
        for weight_name, weight in weights.items():
            if weight_name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(_SILENT)
        embedding = weights["model.embed_tokens.weight"]
        generator = torch.Generator().manual_seed(1)
        output = torch.empty_like(embedding).normal_(std=0.02, generator=generator)
        for text in texts:
            for token_id, following in pairwise(text):
                output[following] = embedding[token_id]
        weights["lm_head.weight"] = output

    config = CONFIGS[model] | {"tie_word_embeddings": False}
    return _kept(cache / f"{model}-{name}", partial(write_checkpoint, config, change=say))


def _kept(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder of the cache. If it is missing, `write` makes it, whole or not at all."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            write(Path(temporary) / folder.name)
            shutil.move(Path(temporary) / folder.name, folder)
    return folder


def write_checkpoint(
    config: dict[str, Any],
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], None] = lambda weights: None,
) -> None:
    """Makes a folder of config.json, model.safetensors and tokenizer.json, always the same.

    `change` may replace weights before they are written.
    """
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(Qwen3Config(**config), dtype=torch.bfloat16)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    byte_level_tokenizer(config["vocab_size"]).save(str(folder / "tokenizer.json"))


def byte_level_tokenizer(vocab_size: int) -> Tokenizer:
    """The 256 bytes, and words of four letters that no merge leads to, up to `vocab_size` ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = map("".join, product(string.ascii_letters, repeat=4))
    tokens = [*alphabet, *islice(words, max(0, vocab_size - len(alphabet)))]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer

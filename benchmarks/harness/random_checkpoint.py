"""Checkpoints with random weights in the shapes of real models, written once to a cache folder.

What a step costs does not depend on the weights' values. The tokenizer is byte-level, knows every
id of the vocabulary and no special ones, so both services can serve the folder.
"""

import json
import shutil
import string
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice, product
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from folovllm.cache_folder import cache_folder
from folovllm.model_files import DEMO_MODEL

_QWEN3 = {
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


def default_cache() -> Path:
    """Where checkpoints are kept unless a folder is named."""
    return cache_folder() / "benchmarks"


def checkpoint(model: str, cache: Path) -> Path:
    """The folder of one of MODELS; `demo` is the embedded one. It is written if need be."""
    if model == "demo":
        return DEMO_MODEL
    return kept(cache / model, partial(write_checkpoint, CONFIGS[model]))


def kept(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder of the cache. Where it is not there, `write` makes it, whole or not at all."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            write(Path(temporary) / folder.name)
            shutil.move(Path(temporary) / folder.name, folder)
    return folder


def write_checkpoint(
    config: dict[str, object],
    folder: Path,
    change: Callable[[dict[str, torch.Tensor]], None] = lambda weights: None,
) -> None:
    """Makes a folder of config.json, model.safetensors and tokenizer.json, always the same.

    `change` may replace weights before they are written.
    """
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shapes = _weight_shapes(config)
    with ThreadPoolExecutor() as threads:
        weights = dict(zip(shapes, threads.map(_weight, count(), shapes.values()), strict=True))
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocab_size = config["vocab_size"]
    assert isinstance(vocab_size, int)
    byte_level_tokenizer(vocab_size).save(str(folder / "tokenizer.json"))


def _weight(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """A norm's ones, or a matrix of small random numbers."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)


def _weight_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint by its name."""

    def size(key: str) -> int:
        return int(str(config[key]))

    hidden, inner, head = size("hidden_size"), size("intermediate_size"), size("head_dim")
    queries, keys = size("num_attention_heads") * head, size("num_key_value_heads") * head
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size("vocab_size"), hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(size("num_hidden_layers")):
        for name, shape in layer.items():
            shapes[f"model.layers.{number}.{name}.weight"] = shape
    return shapes


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

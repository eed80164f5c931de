"""A checkpoint in a real shape that says given texts: what a token is followed by is arranged.

Random weights copy nothing, and what a step costs does not depend on the weights' values. So the
layers are random and nearly silent, and the row of the output layer that belongs to a token is the
embedding of the token before it in the text. A text follows its first token, greedily; no token
occurs twice in the texts.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.harness.random_checkpoint import CONFIGS, kept, write_checkpoint

_SILENT = 1e-3


def copying_checkpoint(name: str, model: str, texts: Sequence[Sequence[int]], cache: Path) -> Path:
    """The folder, kept by its name: the shape of `model`, which says the texts."""
    config = CONFIGS[model] | {"tie_word_embeddings": False}
    change = partial(_say, texts=texts)
    return kept(cache / f"{model}-{name}", partial(write_checkpoint, config, change=change))


def _say(weights: dict[str, torch.Tensor], texts: Sequence[Sequence[int]]) -> None:
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_(_SILENT)
    embedding = weights["model.embed_tokens.weight"]
    generator = torch.Generator().manual_seed(1)
    output = torch.empty_like(embedding).normal_(std=0.02, generator=generator)
    for text in texts:
        for token_id, following in pairwise(text):
            output[following] = embedding[token_id]
    weights["lm_head.weight"] = output

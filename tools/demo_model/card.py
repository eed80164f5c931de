"""The model card: what the checkpoint is, how it was made, and how it scores.

Run as `python -m tools.demo_model.card FOLDER` to score a checkpoint anew and rewrite its card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from tools.demo_model.evaluate import Score, evaluate, table

_CARD = """# The FolovLLM demo model

A Qwen3 checkpoint of {parameters:.1f} million parameters that speaks Qwen3's chat dialect (ChatML
turns, think blocks, tool calls). It is embedded so that every feature can be shown and tested
without a download. It knows very little, and it is often wrong outside the skills below.

**Shape**: {layers} layers, hidden size {hidden}, {heads} query and {kv_heads} key-value heads
of size {head_dim}, q/k norm, tied embeddings, {vocab} tokens, up to {context} positions, bfloat16.
Training samples are at most 384 tokens long; beyond that, expect nothing.

**Made by** `python -m tools.demo_model.build`: a seeded generator writes the corpus (grammars,
tables of plain facts, arithmetic), a byte-level BPE tokenizer in Qwen's format is trained on it,
then the model, on two CPU cores with Muon and AdamW. Nothing was downloaded or copied.

{training}

**Skills**: greetings, also in a dozen other languages; what it is; capitals and some dozens of
plain facts; addition and subtraction up to three digits; counting, spelling and repeating; small
stories; a JSON object from a sentence; tool calls and a sentence from the tool's answer; short
working when thinking is on; saying that it does not know. Stories, facts and sums also as plain
text. With thinking off, the working of sums of two or three digits is part of the answer.

**Scores**, by `python -m tools.demo_model.evaluate`. One name, city, number and pair of operands
in ten is held out by hash from the training of its skill; the questions are made of these.

{table}
"""


def write_card(folder: Path, scores: list[Score], training: str) -> None:
    """Write the folder's README.md."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = _CARD.format(
        parameters=_parameters(folder) / 1e6,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        training=training,
        table=table(scores),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _parameters(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def main() -> None:
    """Read the command line, score and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--training", default="", help="a sentence on how training went")
    given = parser.parse_args()
    write_card(given.folder, evaluate(given.folder, given.count), given.training)


if __name__ == "__main__":
    main()

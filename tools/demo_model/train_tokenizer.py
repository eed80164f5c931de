"""Trains the tokenizer: byte-level BPE in the format of Qwen2 and Qwen3, on the seeded corpus.

All 256 bytes are in the vocabulary, each digit is a token, no token begins a text by itself.
Run as `python -m tools.demo_model.train_tokenizer FOLDER`.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tools.demo_model.corpus import samples
from tools.demo_model.template import TEMPLATE_FILE, segments

VOCAB_SIZE = 2048
CONTEXT = 2048
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer: words, single digits, punctuation, line ends."""


def train_tokenizer(folder: Path, seed: int = 0, count: int = 60_000) -> Tokenizer:
    """Train on the first `count` samples and write the tokenizer's files into the folder."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        _without_markers(piece)
        for sample in islice(samples(seed), count)
        for piece, _ in segments(sample)
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in MARKERS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder)
    return tokenizer


def _without_markers(text: str) -> str:
    """The text without the added tokens, which no merge may ever contain."""
    for marker in (*SPECIAL, *MARKERS):
        text = text.replace(marker, "\n")
    return text


def _write_config(folder: Path) -> None:
    template = TEMPLATE_FILE.read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "model_max_length": CONTEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "errors": "replace",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    train_tokenizer(Path(sys.argv[1]))

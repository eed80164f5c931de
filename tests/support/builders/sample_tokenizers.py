"""Tokenizers for tests: a byte-level BPE one of 264 ids, and Qwen3's where the machine has it."""

import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")]
EOS = "<|endoftext|>"
IM_END = "<|im_end|>"
THINK = "</think>"
EOS_ID = 261
VOCAB_SIZE = 264

QWEN3 = Path(
    os.environ.get("FOLOVLLM_QWEN3_TOKENIZER")
    or Path(__file__).parents[4] / "shared" / "qwen3-tokenizer"
)
needs_qwen3 = pytest.mark.skipif(
    not (QWEN3 / "tokenizer.json").is_file(),
    reason="FOLOVLLM_QWEN3_TOKENIZER names no folder with Qwen3's tokenizer.json",
)


def byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Id b is byte b for b < 256; then the merges, two special tokens, a plain added one."""
    vocab = {character: byte for byte, character in byte_characters().items()}
    for left, right in MERGES:
        vocab[left + right] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([EOS, IM_END])
    backend.add_tokens([AddedToken(THINK, special=False)])
    return backend


def save_byte_tokenizer(folder: Path) -> Path:
    """Writes tokenizer.json to the folder and returns the folder."""
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder

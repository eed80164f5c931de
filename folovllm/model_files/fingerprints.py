"""Fingerprints of a model's files, which show whether two services have the same."""

import hashlib
from pathlib import Path

from folovllm.model_files.folder import read_chat_template


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes as hex; empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_fingerprint(folder: Path) -> str:
    """Identifies the tokenizer of a model's folder."""
    return file_fingerprint(folder / "tokenizer.json")


def chat_template_fingerprint(folder: Path) -> str:
    """Identifies the chat template of a model's folder; empty if it has none.

    It covers the text, whichever file has it. Raises ConfigError.
    """
    text = read_chat_template(folder)
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def model_fingerprint(folder: Path) -> str:
    """Identifies configuration and weights without reading gigabytes.

    Covers config.json, and each weight file's name, size and three samples of 64 KiB: the header
    with every tensor's name, type, shape and offset, and weights in the middle and at the end.
    """
    digest = hashlib.sha256(file_fingerprint(folder / "config.json").encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for offset in (0, size // 2, max(0, size - 65536)):
                file.seek(offset)
                digest.update(file.read(65536))
    return digest.hexdigest()

"""Where a model's files are, and fingerprints, which show whether two services have the same."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from folovllm.errors import ConfigError

DEMO_MODEL = Path(__file__).parent / "demo_model"

CONFIG_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model")
TOKENIZER_FILE_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
WEIGHT_PATTERNS = ("*.safetensors",)


def resolve_model(model: str | None, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a model: the embedded one for None, a local folder, or a hub id's snapshot.

    Only files that match `patterns` are fetched from the hub; `revision` is a branch, tag or commit
    there. Raises ConfigError.
    """
    path = DEMO_MODEL if model is None else Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"revision {revision} is of a model on the hub; {path} is a folder")
        return path
    assert model is not None
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ConfigError(f"{model} is not a folder; give a model's folder or its hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"{model} is neither a local folder nor a model that the hub gives: {reason}"
        ) from None


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file. Raises ConfigError if it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} has no {path.name}; is it a model's folder?") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} does not hold a JSON object")
    return value


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes as hex; empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_fingerprint(folder: Path) -> str:
    """Identifies the tokenizer of a model's folder."""
    return file_fingerprint(folder / "tokenizer.json")


def find_tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a model's folder that make up its tokenizer, including the chat template."""
    return tuple(path for name in TOKENIZER_FILE_NAMES if (path := folder / name).is_file())


def read_chat_template(folder: Path) -> str:
    """The chat template of a model's folder, as transformers finds it; empty if there is none.

    Line ends are read as "\\n". Of several named templates it is "default". Raises ConfigError.
    """
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from None
    template = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        named = {
            each.get("name"): each.get("template") for each in template if isinstance(each, dict)
        }
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ConfigError(f"{config}: chat_template must be a text, or a list of named texts")
    return template or ""


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

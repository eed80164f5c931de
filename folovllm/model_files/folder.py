"""Where a model's files are, what is in them, and what is missing."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.model_files.hub import fetch_snapshot

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"

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
WEIGHT_INDEX = "model.safetensors.index.json"
"""Lists the files of weights that are several."""

_WEIGHTS = "model.safetensors"


def resolve_model(model: str | None, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder of a model: the embedded one for None, a local folder, or a hub id's snapshot.

    Only files that match `patterns` are fetched from the hub; `revision` is a branch, tag or commit
    there. Raises ConfigError.
    """
    path = DEMO_MODEL if model is None else Path(model).expanduser()
    if path.is_dir() and revision is not None:
        raise ConfigError(f"revision {revision} is of a model on the hub; {path} is a folder")
    if model is None or path.is_dir():
        return path
    if is_hub_id(model):
        return fetch_snapshot(model, patterns, revision)
    if path.exists():
        raise ConfigError(f"{model} is a file; give the folder of a model, which holds config.json")
    folders = [each.name for each in path.parent.glob("*") if each.is_dir()]
    similar = difflib.get_close_matches(path.name, folders, n=1)
    remedy = (
        f"did you mean {path.with_name(similar[0])}?"
        if similar
        else "give a model's folder, or a hub id such as Qwen/Qwen3-0.6B"
    )
    raise ConfigError(f"there is no folder {model}; {remedy}")


def is_hub_id(model: str) -> bool:
    """Whether a name that is no folder means a model of the hub, not a path with a mistake."""
    path = Path(model)
    in_folder = len(path.parts) > 1 and Path(path.parts[0]).is_dir()
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    return not (looks_local or in_folder or path.exists())


def check_model_folder(folder: Path) -> None:
    """Raises ConfigError naming the first file that both services need and the folder lacks."""
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} has no {name}; a model's folder holds config.json, tokenizer.json and "
                "*.safetensors"
            )
    for path in weight_files(folder):
        if not path.is_file():
            raise ConfigError(f"{folder} has no {path.name}, which its {WEIGHT_INDEX} lists")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, from the index where there is one; some may be missing.

    Raises ConfigError if there are none.
    """
    if (folder / WEIGHT_INDEX).is_file():
        weight_map = read_json(folder / WEIGHT_INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ConfigError(f"{folder / WEIGHT_INDEX} has no weight_map")
        return [folder / name for name in sorted(set(map(str, weight_map.values())))]
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    raise ConfigError(
        f"{folder} has no weights: it needs {_WEIGHTS} or {WEIGHT_INDEX} "
        "(other formats are not read)"
    )


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

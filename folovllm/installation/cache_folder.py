"""Where FolovLLM keeps what it can make again."""

from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """The user's folder for caches, such as `~/.cache/folovllm`; it need not exist yet."""
    return user_cache_path("folovllm", appauthor=False)

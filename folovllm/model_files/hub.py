"""The hub's models on this machine: where they are cached, and why one cannot be had."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from folovllm.errors import ConfigError

# By the names of their classes, which are others in each HTTP library that huggingface_hub has had.
_NO_NETWORK = {
    "ConnectionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "Timeout",
    "TransportError",
}


def hub_cache() -> Path:
    """The folder of all models that were fetched, with HF_HOME and HF_HUB_CACHE applied.

    Raises ConfigError without the package.
    """
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        raise ConfigError(
            "models of the hub need huggingface_hub; 'folovllm doctor all' says how to install it"
        ) from None
    return Path(HF_HUB_CACHE).expanduser()


def fetch_snapshot(model: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder with a model's files that match; only those missing in the cache are fetched.

    `revision` is a branch, tag or commit; by default the main branch. Raises ConfigError.
    """
    hub_cache()
    from huggingface_hub import snapshot_download

    with hub_errors(model):
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))


@contextmanager
def hub_errors(model: str) -> Iterator[None]:
    """Turns what huggingface_hub raises about a model into a ConfigError that says what to do."""
    try:
        yield
    except Exception as error:
        raise ConfigError(_advice(model, error)) from None


def shown(path: Path) -> str:
    """A path, from the home folder on where it lies there."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def _advice(model: str, error: Exception) -> str:
    names = {cls.__name__ for cls in type(error).__mro__}
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if "HFValidationError" in names:
        return f"{model} is neither a folder nor a hub id, which is like Qwen/Qwen3-0.6B"
    if "GatedRepoError" in names:
        return f"{model} is gated: accept its terms on its page of the hub, then {log_in}"
    if "RepositoryNotFoundError" in names:
        return f"the hub has no model {model}, or it is private: check the name, or {log_in}"
    if names & _NO_NETWORK:
        state = "not complete" if "IncompleteSnapshotError" in names else "not"
        return (
            f"{model} is {state} in the cache at {shown(hub_cache())} and the hub cannot be "
            f"reached; on a machine with network: folovllm pull {model}, or copy its folder here "
            "and give its path"
        )
    lines = str(error).strip().splitlines()
    return f"{model} cannot be fetched from the hub: {lines[0] if lines else type(error).__name__}"

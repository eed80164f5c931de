"""Fetches a model from the hub into its cache, and shows how far that is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, WEIGHT_PATTERNS, is_hub_id
from folovllm.model_files.hub import fetch_snapshot, hub_cache, hub_errors
from folovllm_client.cli.console import note, open_console
from folovllm_client.cli.hub.cached_models import folder_size, model_folder
from folovllm_client.cli.hub.sizes import size_text

_PATTERNS = (*CONFIG_PATTERNS, *WEIGHT_PATTERNS)
_POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of a model that the services read, at one commit."""

    model: str
    commit: str
    names: tuple[str, ...]
    size: int
    """In bytes."""


def pull_model(model: str) -> Path:
    """Fetches what the cache lacks; files that are complete are kept. Returns the folder.

    Raises ConfigError.
    """
    if not is_hub_id(model):
        raise ConfigError(f"{model} is a path; give a hub id such as Qwen/Qwen3-0.6B")
    files = find_files(model)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    with _shown_progress(files), hub_errors(model):
        # One after the other, so that Ctrl-C stops at once: a pool would finish its files first.
        for name in files.names:
            hf_hub_download(model, name, revision=files.commit)
    return fetch_snapshot(model, _PATTERNS)


def find_files(model: str) -> HubFiles:
    """Asks the hub what a model consists of. Raises ConfigError."""
    hub_cache()
    from huggingface_hub import HfApi

    with hub_errors(model):
        info = HfApi().model_info(model, files_metadata=True)
    siblings = [each for each in info.siblings or () if _is_read(each.rfilename)]
    if not any(_is_weight(each.rfilename) for each in siblings):
        raise ConfigError(f"{model} has no weights in safetensors, the format that is read")
    names = sorted((each.rfilename for each in siblings), key=_is_weight)
    return HubFiles(model, str(info.sha), tuple(names), sum(each.size or 0 for each in siblings))


def _is_read(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _PATTERNS)


def _is_weight(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHT_PATTERNS)


@contextmanager
def _shown_progress(files: HubFiles) -> Iterator[None]:
    """A bar on a terminal, else a line; measured on disk, where every download method writes."""
    console = open_console(err=True)
    if not console.is_interactive:
        note(f"{files.model}: {size_text(files.size)} in {len(files.names)} files")
        yield
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    folder, done = model_folder(files.model), threading.Event()
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(files.model, total=files.size, completed=folder_size(folder))

        def watch() -> None:
            while not done.wait(_POLL_SECONDS):
                bar.update(task, completed=min(files.size, folder_size(folder)))

        watcher = threading.Thread(target=watch, name="pull-progress")
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

"""WeightsFingerprint: a hash over all data of a model's weights, made beside loading them.

SHA-256 over large pieces on a few threads: processors have instructions for it, and it shares the
disk's cache with whoever loads. What was found for a file is kept until the file changes.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from folovllm.errors import ConfigError
from folovllm.installation.cache_folder import cache_folder
from folovllm.installation.trusted_files import distrust, make_private_folder
from folovllm.model_files.folder import weight_files

# What one thread hashes at once; part of the definition.
_PIECE_BYTES = 64 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_MAX_THREADS = 4


class WeightsFingerprint:
    """The fingerprint of the weights in a model's folder. It is made while in its context."""

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        """`cache` is the folder for what was found."""
        self._cache = cache or cache_folder() / "fingerprints"
        self._folder = folder
        self._files: list[_File] = []
        self._executor = ThreadPoolExecutor(
            min(_MAX_THREADS, max(1, (os.cpu_count() or 1) // 2)), "fingerprint"
        )

    def __enter__(self) -> "WeightsFingerprint":
        with suppress(ConfigError):  # whoever loads says first what is wrong; else the result does
            paths = weight_files(self._folder)
            self._files = [_File(path, self._cache, self._executor) for path in paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def result(self) -> str:
        """The fingerprint, as hex, once it is known.

        Raises ConfigError if there are no weights, or a file is unreadable.
        """
        if not self._files:
            weight_files(self._folder)
        return _hash([file.digest() for file in self._files])


class _File:
    """One file's digest, which is found in the cache or begun to be made."""

    def __init__(self, path: Path, cache: Path, executor: ThreadPoolExecutor) -> None:
        self._path = path
        self._pieces: list[Future[str]] = []
        self._state = self._known = ""
        self._error: OSError | None = None
        try:
            self._state = _state(path)
            status = path.stat()
        except OSError as error:
            self._error = error
            return
        self._entry = cache / f"{status.st_dev:x}-{status.st_ino:x}.json"
        self._known = _read_entry(self._entry, self._state)
        if not self._known:
            offsets = range(0, status.st_size, _PIECE_BYTES)
            self._pieces = [executor.submit(_hash_piece, path, offset) for offset in offsets]

    def digest(self) -> str:
        """Raises ConfigError."""
        try:
            if self._error is not None:
                raise self._error
            if not self._known:
                self._known = _hash([piece.result() for piece in self._pieces])
                if _state(self._path) == self._state:
                    _write_entry(self._entry, self._state, self._known)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}") from None
        return self._known


def _hash_piece(path: Path, offset: int) -> str:
    digest, left = hashlib.sha256(), _PIECE_BYTES
    buffer = memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left and (count := file.readinto(buffer[: min(left, _READ_BYTES)])):
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def _hash(digests: Sequence[str]) -> str:
    return hashlib.sha256(":".join(digests).encode()).hexdigest()


def _state(path: Path) -> str:
    """What changes whenever a file does. Raises OSError."""
    status = path.stat()
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _read_entry(entry: Path, state: str) -> str:
    """The digest of a file that was in this state; empty if it is unknown."""
    if not entry.is_file() or distrust(entry):
        return ""
    try:
        found = json.loads(entry.read_text())
        return str(found["sha256"]) if found["state"] == state else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_entry(entry: Path, state: str, digest: str) -> None:
    """Keeps a digest, if the cache can be written."""
    unfinished = entry.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        make_private_folder(entry.parent)
        unfinished.write_text(json.dumps({"state": state, "sha256": digest}))
        unfinished.replace(entry)

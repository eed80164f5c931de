"""TokenizerDownload: collects a tokenizer's files and puts them in a folder, all or none."""

import hashlib
import tempfile
from pathlib import Path
from typing import Self

from folovllm.errors import ServerError
from folovllm.v1.tokenizer_service_pb2 import TokenizerFileChunk


class TokenizerDownload:
    """Writes the chunks of GetTokenizer to a temporary folder inside the final one.

    A context manager: what has not been kept by its end is deleted. Raises ServerError if the data
    is not what was sent, OSError if the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._arriving = tempfile.TemporaryDirectory(dir=self._folder, prefix=".arriving-")
        self._name = ""  # of the file that is arriving
        self._digest = hashlib.sha256()
        self._complete: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._arriving.cleanup()

    def add(self, chunk: TokenizerFileChunk) -> None:
        """Adds the next chunk; the last one of a file has its checksum."""
        if not self._name:
            if Path(name := chunk.name).name != name or name in ("", "..", *self._complete):
                raise ServerError(f"the server names a file {name!r}")
            self._name, self._digest = name, hashlib.sha256()
        if chunk.name != self._name:
            raise ServerError(f"{self._name} was cut off by {chunk.name!r}")
        self._digest.update(chunk.data)
        with self._path(self._name).open("ab") as file:
            file.write(chunk.data)
        if chunk.sha256:
            if chunk.sha256 != self._digest.hexdigest():
                raise ServerError(f"{self._name} has not arrived as it was sent")
            self._complete.append(self._name)
            self._name = ""

    def keep(self) -> list[Path]:
        """Moves all files into the folder after the last chunk; returns their paths."""
        if self._name or not self._complete:
            raise ServerError(f"{self._name or 'the tokenizer'} was cut off")
        paths = [self._folder / name for name in self._complete]
        for name, path in zip(self._complete, paths, strict=True):
            self._path(name).replace(path)
        return paths

    def _path(self, name: str) -> Path:
        return Path(self._arriving.name, name)

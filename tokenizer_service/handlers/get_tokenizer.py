"""GetTokenizer: the tokenizer's files."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

from folovllm.errors import UnavailableError
from folovllm.v1.tokenizer_service_pb2 import GetTokenizerRequest, TokenizerFileChunk
from tokenizer_service.handlers.services import Services

_PIECE_BYTES = 64 * 1024


async def get_tokenizer(
    request: GetTokenizerRequest, services: Services
) -> AsyncGenerator[TokenizerFileChunk, None]:
    """All files in pieces. No file stays open between two of them, so a call may end anywhere.

    Raises UnavailableError if a file is gone, or tokenizer.json is not what the service has read.
    """
    for path in services.tokenizer.files:
        digest = hashlib.sha256()
        offset, size = 0, _PIECE_BYTES
        while size == _PIECE_BYTES:
            data = await services.offload.run(_PIECE_BYTES, _read, path, offset)
            digest.update(data)
            size = len(data)
            offset += size
            chunk = TokenizerFileChunk(name=path.name, data=data)
            if size < _PIECE_BYTES:
                chunk.sha256 = digest.hexdigest()
                known = services.tokenizer.fingerprint
                if path.name == "tokenizer.json" and chunk.sha256 != known:
                    raise UnavailableError(f"{path.name} has changed since the service was started")
            yield chunk


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_PIECE_BYTES)
    except OSError as error:
        raise UnavailableError(f"{path.name} cannot be read any more: {error.strerror}") from None

"""Tokenize: texts to token ids, step by step, while the answer still fits into a message."""

from collections.abc import Iterator, Sequence

from folovllm.v1.tokenizer_service_pb2 import Encoding, TokenizeRequest, TokenizeResponse
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.limits import ResponseSize
from tokenizer_service.text.offload import part_size
from tokenizer_service.text.tokenizer import Tokenizer, TokenOffsets

# Tokens whose offsets are read in one step, which takes about ten milliseconds.
_MAX_OFFSETS = 8192


async def tokenize(request: TokenizeRequest, services: Services) -> TokenizeResponse:
    """The token ids of texts."""
    services.limits.check_batch([len(text.encode()) for text in request.texts], "texts")
    response = TokenizeResponse()
    await services.offload.run_steps(_tokenize(request, services.tokenizer, response))
    return response


def _tokenize(
    request: TokenizeRequest, tokenizer: Tokenizer, response: TokenizeResponse
) -> Iterator[int]:
    """Fills the answer. Building a long one takes as much time as encoding."""
    add = request.add_special_tokens if request.HasField("add_special_tokens") else True
    size = ResponseSize("texts")
    for text in request.texts:
        yield part_size(text)
        encoding = response.encodings.add()
        if request.return_offsets:
            (tokens,) = tokenizer.encode_with_offsets([text], add)
            encoding.token_ids.extend(tokens.token_ids)
            yield from _add_offsets(encoding, text, tokens, size)
        else:
            encoding.token_ids.extend(tokenizer.encode_batch([text], add)[0])
        if request.return_pieces:
            # Each takes a tag and a length at least.
            size.check_growth(encoding.ByteSize() + 2 * len(encoding.token_ids))
            yield len(encoding.token_ids)
            encoding.pieces.extend(tokenizer.pieces(encoding.token_ids))
        size.add(encoding.ByteSize())


def _add_offsets(
    encoding: Encoding, text: str, tokens: TokenOffsets, size: ResponseSize
) -> Iterator[int]:
    """Adds the offsets of a text's tokens, in characters and in bytes."""
    byte_offsets = _byte_offsets(text)
    for begin in range(0, len(tokens.token_ids), _MAX_OFFSETS):
        end = min(begin + _MAX_OFFSETS, len(tokens.token_ids))
        size.check_growth(encoding.ByteSize())
        yield end - begin
        starts, ends = tokens.between(begin, end)
        # One list at a time, since each is copied under the lock.
        encoding.char_starts.extend(starts)
        encoding.char_ends.extend(ends)
        encoding.byte_starts.extend([byte_offsets[start] for start in starts])
        encoding.byte_ends.extend([byte_offsets[end] for end in ends])


def _byte_offsets(text: str) -> Sequence[int]:
    """Where each character begins in UTF-8, and where the last one ends."""
    if text.isascii():
        return range(len(text) + 1)
    data = text.encode()
    # Every byte but a continuation byte begins a character.
    return [i for i, byte in enumerate(data) if byte & 0xC0 != 0x80] + [len(data)]

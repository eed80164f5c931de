"""Tokenize: texts to token ids."""

from folovllm.v1.tokenizer_service_pb2 import TokenizeRequest, TokenizeResponse
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.limits import check_response_size
from tokenizer_service.text.offload import batch_size, offload_if_large
from tokenizer_service.text.tokenizer import Tokenizer, TokenOffsets


async def tokenize(request: TokenizeRequest, services: Services) -> TokenizeResponse:
    """The token ids of texts."""
    services.limits.check_batch([len(text.encode()) for text in request.texts], "texts")
    size = batch_size(request.texts)
    return await offload_if_large(size, _tokenize, request, services.tokenizer)


def _tokenize(request: TokenizeRequest, tokenizer: Tokenizer) -> TokenizeResponse:
    """The whole answer: building a long one takes as much time as encoding."""
    texts = list(request.texts)
    add = request.add_special_tokens if request.HasField("add_special_tokens") else True
    response = TokenizeResponse()
    if request.return_offsets:
        for text, tokens in zip(texts, tokenizer.encode_with_offsets(texts, add), strict=True):
            _add_with_offsets(response, text, tokens)
    else:
        for token_ids in tokenizer.encode_batch(texts, add):
            response.encodings.add(token_ids=token_ids)
    if request.return_pieces:
        for encoding in response.encodings:
            encoding.pieces.extend(tokenizer.pieces(encoding.token_ids))
    check_response_size(response, "texts")
    return response


def _add_with_offsets(response: TokenizeResponse, text: str, tokens: TokenOffsets) -> None:
    """Adds the ids of a text with their offsets in characters and in bytes."""
    data = text.encode()
    # Every byte but a continuation byte begins a character.
    byte_offsets = [i for i, byte in enumerate(data) if byte & 0xC0 != 0x80] + [len(data)]
    # One list at a time, since each is copied under the lock.
    encoding = response.encodings.add(token_ids=tokens.token_ids)
    encoding.char_starts.extend(tokens.starts)
    encoding.char_ends.extend(tokens.ends)
    encoding.byte_starts.extend([byte_offsets[start] for start in tokens.starts])
    encoding.byte_ends.extend([byte_offsets[end] for end in tokens.ends])

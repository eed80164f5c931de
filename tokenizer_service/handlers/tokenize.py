"""The call that turns texts into token ids: Tokenize."""

from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.text.codec import Codec, check_answer, off_loop, size_of_batch
from tokenizer_service.text.tokenizer import LocatedTokens, Tokenizer


async def tokenize(request: messages.TokenizeRequest, codec: Codec) -> messages.TokenizeResponse:
    """The token ids of texts. Raises InvalidRequestError."""
    codec.check_batch([len(text.encode()) for text in request.texts], "texts")
    size = size_of_batch(request.texts)
    return await off_loop(size, _tokenize, request, codec.tokenizer)


def _tokenize(request: messages.TokenizeRequest, tokenizer: Tokenizer) -> messages.TokenizeResponse:
    """The whole answer, made where the encoding is, since a long one takes time of its own."""
    texts = list(request.texts)
    add = request.add_special_tokens if request.HasField("add_special_tokens") else True
    response = messages.TokenizeResponse()
    if request.return_offsets:
        located = tokenizer.encode_with_offsets(texts, add)
        for text, tokens in zip(texts, located, strict=True):
            _add_located(response, text, tokens)
    else:
        for token_ids in tokenizer.encode_batch(texts, add):
            response.encodings.add(token_ids=token_ids)
    if request.return_pieces:
        for encoding in response.encodings:
            encoding.pieces.extend(tokenizer.pieces(encoding.token_ids))
    check_answer(response, "texts")
    return response


def _add_located(response: messages.TokenizeResponse, text: str, tokens: LocatedTokens) -> None:
    """Adds the ids of a text with their places in characters and in bytes."""
    data = text.encode()
    # Every byte but a continuation byte begins a character.
    places = [place for place, byte in enumerate(data) if byte & 0xC0 != 0x80] + [len(data)]
    # One list at a time, since each is copied under the lock.
    encoding = response.encodings.add(token_ids=tokens.token_ids)
    encoding.char_starts.extend(tokens.starts)
    encoding.char_ends.extend(tokens.ends)
    encoding.byte_starts.extend([places[start] for start in tokens.starts])
    encoding.byte_ends.extend([places[end] for end in tokens.ends])

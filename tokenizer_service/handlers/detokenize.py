"""Detokenize: whole sequences of token ids to texts, while the answer still fits into a message."""

from collections.abc import Generator, Iterator

from folovllm.v1.tokenizer_service_pb2 import DetokenizeRequest, DetokenizeResponse
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.detokenizer import new_detokenizer
from tokenizer_service.text.limits import ResponseSize
from tokenizer_service.text.offload import part_size
from tokenizer_service.text.tokenizer import Tokenizer, check_token_ids

# What a text in the answer takes beside itself: a tag and a length.
_FRAME_BYTES = 6
# Tokens that are decoded in one step.
_MAX_TOKENS = 8192


async def detokenize(request: DetokenizeRequest, services: Services) -> DetokenizeResponse:
    """The texts of sequences."""
    services.limits.check_batch([len(each.ids) for each in request.sequences], "sequences")
    response = DetokenizeResponse()
    steps = _detokenize(request, services.tokenizer, services.vocab_size, response)
    await services.offload.run_steps(steps)
    return response


def _detokenize(
    request: DetokenizeRequest, tokenizer: Tokenizer, vocab_size: int, response: DetokenizeResponse
) -> Iterator[int]:
    """Fills the answer, one sequence in a step."""
    skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
    size = ResponseSize("sequences")
    for index, sequence in enumerate(request.sequences):
        yield part_size(sequence.ids)
        token_ids = list(sequence.ids)
        check_token_ids(token_ids, vocab_size, f"sequences[{index}]")
        response.texts.append((yield from _decoded(tokenizer, token_ids, skip, size)))


def _decoded(
    tokenizer: Tokenizer, token_ids: list[int], skip: bool, size: ResponseSize
) -> Generator[int, None, str]:
    """The text of a sequence. A token may stand for a hundred bytes: they are counted meanwhile."""
    if tokenizer.token_bytes is None:  # only as a whole do the library's decoders give its text
        texts = [tokenizer.decode_known(token_ids, skip)]
    else:
        detokenizer = new_detokenizer(tokenizer, skip)
        texts = []
        for begin in range(0, len(token_ids), _MAX_TOKENS):
            texts.append(detokenizer.push(token_ids[begin : begin + _MAX_TOKENS]))
            size.add(len(texts[-1].encode()))
            yield _MAX_TOKENS
        texts.append(detokenizer.flush())
    size.add(len(texts[-1].encode()) + _FRAME_BYTES)
    return "".join(texts)

"""StreamDetokenize: token ids to text while they arrive."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from folovllm.errors import InvalidRequestError, errors_within
from folovllm.sampling_params import SamplingParams
from folovllm.v1.tokenizer_service_pb2 import (
    DetokenizeOptions,
    StreamDetokenizeRequest,
    StreamDetokenizeResponse,
)
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.detokenizer import StoppingDetokenizer
from tokenizer_service.text.limits import ResponseSize, check_response_size
from tokenizer_service.text.tokenizer import check_token_ids

# Tokens that are decoded in one step: a few milliseconds, times the stop strings.
_MAX_TOKENS = 2048


async def stream_detokenize(
    requests: AsyncIterator[StreamDetokenizeRequest], services: Services
) -> AsyncGenerator[StreamDetokenizeResponse, None]:
    """One answer for each message of ids; the last one has `finished`."""
    params = SamplingParams()
    detokenizer = StoppingDetokenizer(services.tokenizer, params)
    is_first = True
    vocab_size = services.vocab_size
    async for request in requests:
        match request.WhichOneof("part"):
            case "options" if is_first:
                params = _params(request.options)
                detokenizer = StoppingDetokenizer(services.tokenizer, params)
                preceding = request.options.preceding_token_ids
                field = "options.preceding_token_ids"
                services.limits.check_num_token_ids(preceding, field)
                await services.offload.run(
                    len(preceding), _skip, detokenizer, preceding, vocab_size, field
                )
            case "options":
                raise InvalidRequestError("options", "options may come only as the first message")
            case "token_ids":
                ids = request.token_ids.ids
                services.limits.check_num_token_ids(ids)
                texts: list[str] = []
                await services.offload.run_steps(
                    _push(detokenizer, ids, vocab_size, len(params.stop), texts)
                )
                yield _response(detokenizer, "".join(texts), finished=detokenizer.stop is not None)
                if detokenizer.stop is not None:
                    return
            case _:
                raise InvalidRequestError("part", "give options or token_ids")
        is_first = False
    yield _response(detokenizer, detokenizer.flush(), finished=True)


def _skip(
    detokenizer: StoppingDetokenizer, token_ids: Sequence[int], vocab_size: int, field: str
) -> None:
    check_token_ids(token_ids, vocab_size, field)
    detokenizer.skip(token_ids)


def _push(
    detokenizer: StoppingDetokenizer,
    token_ids: Sequence[int],
    vocab_size: int,
    num_stops: int,
    texts: list[str],
) -> Iterator[int]:
    """Adds the text of ids to `texts`, while it still fits into a message."""
    yield len(token_ids)
    ids = list(token_ids)
    check_token_ids(ids, vocab_size)
    size = ResponseSize("token_ids")
    # Each stop string is another pass over the text.
    passes = 1 + num_stops
    for begin in range(0, len(ids), _MAX_TOKENS):
        step = ids[begin : begin + _MAX_TOKENS]
        yield len(step) * passes
        texts.append(detokenizer.push(step))
        size.add(len(texts[-1].encode()))
        if detokenizer.stop is not None:
            return


def _response(
    detokenizer: StoppingDetokenizer, text: str, *, finished: bool
) -> StreamDetokenizeResponse:
    response = StreamDetokenizeResponse(
        text=text,
        num_token_ids=detokenizer.num_tokens,
        stop_string=detokenizer.stop,
        finished=finished,
    )
    check_response_size(response, "token_ids")
    return response


def _params(options: DetokenizeOptions) -> SamplingParams:
    """The options as sampling parameters, which have the same checks."""
    with errors_within("options"):
        return SamplingParams(
            stop=tuple(options.stop),
            include_stop_str_in_output=options.include_stop_str_in_output,
            min_tokens=options.min_tokens,
            max_tokens=None,
            skip_special_tokens=(
                options.skip_special_tokens if options.HasField("skip_special_tokens") else True
            ),
        )

"""Score: how probable given continuations are; text is encoded for the engine, which scores ids."""

from collections.abc import Iterator, Sequence

import structlog

from folovllm.errors import InvalidRequestError
from folovllm.request_id import new_request_id
from folovllm.score import MAX_CONTINUATIONS, ScoreOutput
from folovllm.serving.turns import LONG_BYTES
from folovllm.v1 import types_pb2
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.offload import part_size
from tokenizer_service.text.score_encoding import EncodedScore, ScoreEncoder, Text


async def score(
    request: types_pb2.ScoreRequest,
    services: Services,
    timeout: float | None,  # noqa: ASYNC109 - sent to the engine with the call
) -> types_pb2.ScoreResponse:
    """The scores of the continuations. `timeout` is what is left of the deadline, in seconds."""
    request_id = request.request_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    prompt, continuations = _read(request)
    _check_size([prompt, *continuations], services.limits.max_prompt_bytes)
    max_model_len = services.engines.model_info().max_model_len
    encoded = await _encode(prompt, continuations, services, max_model_len)
    sent = types_pb2.ScoreRequest(
        request_id=request_id, priority=request.priority, cache_salt=request.cache_salt
    )
    sent.token_ids.ids.extend(encoded.prompt_token_ids)
    for token_ids in encoded.continuations:
        sent.continuations.add().token_ids.ids.extend(token_ids)
    response = await services.engines.score(sent, timeout)
    if response.ByteSize() > LONG_BYTES:
        await services.turns.take()
    return encoded.scores(ScoreOutput.from_proto(response)).to_proto()


async def _encode(
    prompt: Text, continuations: Sequence[Text], services: Services, max_model_len: int
) -> EncodedScore:
    """Encodes in steps, so that a hundred long texts do not hold a thread for all of them."""
    result: list[EncodedScore] = []

    def steps() -> Iterator[int]:
        yield part_size(prompt)
        encoder = ScoreEncoder(services.tokenizer, prompt, max_model_len)
        for continuation in continuations:
            yield part_size(prompt) + len(continuation)
            encoder.add(continuation)
        yield len(prompt)
        result.append(encoder.encoded())

    await services.offload.run_steps(steps())
    return result[0]


def _read(request: types_pb2.ScoreRequest) -> tuple[Text, list[Text]]:
    """The prompt and the continuations, each as text or token ids."""
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequestError("prompt", "give the prompt as text or as token_ids")
    if not 1 <= len(request.continuations) <= MAX_CONTINUATIONS:
        raise InvalidRequestError(
            "continuations",
            f"give 1 to {MAX_CONTINUATIONS} continuations, got {len(request.continuations)}",
        )
    prompt: Text = request.text if kind == "text" else request.token_ids.ids
    return prompt, [
        each.text if each.WhichOneof("continuation") == "text" else each.token_ids.ids
        for each in request.continuations
    ]


def _check_size(texts: Sequence[Text], max_bytes: int) -> None:
    num_bytes = sum(len(text.encode()) if isinstance(text, str) else len(text) for text in texts)
    if num_bytes > max_bytes:
        raise InvalidRequestError(
            "continuations", f"prompt and continuations are over the limit of {max_bytes} bytes"
        )

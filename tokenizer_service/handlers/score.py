"""The messages of Score: read, and written for the engine."""

from collections.abc import Sequence

from folovllm.errors import InvalidRequestError
from folovllm.score import MAX_CONTINUATIONS
from folovllm.v1 import types_pb2
from tokenizer_service.text.scoring import EncodedScore

Text = str | Sequence[int]


def read_score(request: types_pb2.ScoreRequest) -> tuple[Text, list[Text]]:
    """The prompt and the continuations, each as text or token ids. Raises InvalidRequestError."""
    kind = request.WhichOneof("prompt")
    if kind is None:
        raise InvalidRequestError("prompt", "give the prompt as text or as token_ids")
    if not 1 <= len(request.continuations) <= MAX_CONTINUATIONS:
        raise InvalidRequestError(
            "continuations",
            f"give 1 to {MAX_CONTINUATIONS} continuations, got {len(request.continuations)}",
        )
    prompt: Text = request.text if kind == "text" else list(request.token_ids.ids)
    return prompt, [
        each.text if each.WhichOneof("continuation") == "text" else list(each.token_ids.ids)
        for each in request.continuations
    ]


def engine_score_request(
    request: types_pb2.ScoreRequest, request_id: str, encoded: EncodedScore
) -> types_pb2.ScoreRequest:
    """The request in token ids alone."""
    ids = types_pb2.SamplingParams.TokenSequence
    return types_pb2.ScoreRequest(
        request_id=request_id,
        token_ids=ids(ids=encoded.prompt_token_ids),
        continuations=[
            types_pb2.ScoreRequest.Continuation(token_ids=ids(ids=continuation))
            for continuation in encoded.continuations
        ],
        priority=request.priority,
        cache_salt=request.cache_salt,
    )

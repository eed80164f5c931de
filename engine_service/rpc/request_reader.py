"""Reads the messages of Generate, Fork and Score, and checks them as far as a message tells.

Every function raises InvalidRequestError that names the field, and as AsyncEngine.info.
"""

from collections.abc import Generator

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Branch, Request
from engine_service.engine.admission import check_branch, check_prompt_length, check_request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.commands import Fork, Generate, Score
from engine_service.engine.continued.checks import check_continued, check_counts
from engine_service.engine.score_requests import score_request
from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.parameters.seeds import new_seed
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.serving.turns import LONG_BYTES
from folovllm.v1 import engine_service_pb2, types_pb2

Moved = engine_service_pb2.Moved


# Seconds for which a request may have been elsewhere.
_MAX_AGE = 30 * 24 * 3600


def read_generate(
    message: types_pb2.Request, engine: AsyncEngine, moved: Moved | None = None
) -> Generate:
    """The request of a message; `moved` is what the session's command says of it."""
    age = 0.0 if moved is None else _read_age(moved)
    info = engine.info
    _refuse_text(message.sampling_params)
    # What is continued has had its defaults resolved.
    is_continued = message.HasField("continued")
    defaults = SamplingParams() if is_continued else engine.default_sampling_params
    params = SamplingParams.from_proto(message.sampling_params, defaults)
    # Both before anything is copied.
    check_prompt_length(len(message.prompt_token_ids), info)
    continued = _read_continued(message, params, info) if is_continued else None
    request = Request(
        message.request_id or new_request_id(),
        message.prompt_token_ids[:],  # a list, which makes an array three times as fast
        params,
        seed=new_seed(),
        priority=message.priority,
        cache_salt=message.cache_salt,
        arrival_time=engine.clock() - age,
        moved=moved is not None,
        is_suspect=moved is not None and moved.is_suspect,
        num_parent_output_tokens=message.continued.num_parent_output_tokens,
        continued=continued,
    )
    check_request(request.prompt_token_ids, params, info)
    if continued is not None:
        check_continued(request, info)
    return Generate(request)


def fork_steps(message: types_pb2.ForkRequest, engine: AsyncEngine) -> Generator[None, None, Fork]:
    """The fork of a message, in steps if its branches are long; see Turns.

    Only the running parent tells how long the branches may be.
    """
    info = engine.info
    branches, num_bytes = [], 0
    for index, params in enumerate(message.branches):
        size = params.ByteSize()
        if num_bytes and num_bytes + size > LONG_BYTES:
            yield
            num_bytes = 0
        num_bytes += size
        try:
            branches.append(_read_branch(params, info, engine.default_sampling_params))
        except InvalidRequestError as error:
            raise error.within(f"branches[{index}]") from None
    return Fork(
        message.request_id,
        message.index,
        message.fork_id or new_request_id(),
        tuple(branches),
        engine.clock(),
    )


def read_score(message: types_pb2.ScoreRequest, engine: AsyncEngine) -> Score:
    """The prompt and the continuations of a message."""
    info = engine.info
    if message.WhichOneof("prompt") == "text":
        raise InvalidRequestError("text", "text is for the tokenizer service")
    for index, continuation in enumerate(message.continuations):
        if continuation.WhichOneof("continuation") == "text":
            raise InvalidRequestError(
                f"continuations[{index}].text", "text is for the tokenizer service"
            )
    request = score_request(
        message.token_ids.ids,
        [continuation.token_ids.ids for continuation in message.continuations],
        info,
        priority=message.priority,
        cache_salt=message.cache_salt,
        arrival_time=engine.clock(),
    )
    return Score(message.request_id or new_request_id(), request)


def _read_continued(
    message: types_pb2.Request, params: SamplingParams, info: ModelInfo
) -> Continued:
    """What a request has generated before; its parameters must be resolved."""
    for name in ("seed", "max_tokens"):
        if not message.sampling_params.HasField(name):
            raise InvalidRequestError(
                f"sampling_params.{name}", f"a continued request needs the {name} it ran with"
            )
    continued = message.continued
    check_counts(continued.outputs, len(message.prompt_token_ids), params, info)
    outputs = tuple(
        ContinuedOutput(output.index, output.token_ids, logprobs=output.logprobs)
        for output in continued.outputs
    )
    return Continued(outputs, branch_index=continued.branch_index)


def _read_age(moved: Moved) -> float:
    """Seconds since a request came to its front end."""
    age = moved.age
    seconds = age.seconds + age.nanos / 1e9
    if not (0 <= age.nanos < 10**9 and 0 <= seconds <= _MAX_AGE):
        raise InvalidRequestError(
            "moved.age",
            f"must be 0 to {_MAX_AGE} s with 0 to 999999999 ns, got {age.seconds} s and "
            f"{age.nanos} ns",
        )
    return seconds


def _refuse_text(message: types_pb2.SamplingParams) -> None:
    """Raises InvalidRequestError if parameters are text, which this service never sees."""
    for name in ("stop", "bad_words"):
        if getattr(message, name):
            raise InvalidRequestError(
                f"sampling_params.{name}", f"{name} is text; ask the tokenizer service"
            )


def _read_branch(
    message: types_pb2.SamplingParams, info: ModelInfo, defaults: SamplingParams
) -> Branch:
    _refuse_text(message)
    params = SamplingParams.from_proto(message, defaults)
    check_branch(params, info)
    return Branch(params, new_seed())

"""Outputs that were cut off, and what a request needs to go on with them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.vllm_names import RequestOutputKind

if TYPE_CHECKING:
    from engine_service.core.continued import Continued, ContinuedOutput
    from folovllm_client.llm.request_state import GenerationState


# What an engine's fields of a continued request are called by the caller.
_NAMES = {
    "continued.num_parent_output_tokens": "output.info.parent_output_token_ids",
    "prompt_token_ids": "output.prompt_token_ids",
    "sampling_params": "output.info.sampling_params",
}
_OUTPUT = re.compile(r"continued\.outputs\[(\d+)\](.*)")


@contextmanager
def errors_about(output: RequestOutput) -> Iterator[None]:
    """Names the fields of InvalidRequestErrors as those of the output that is to go on."""
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(_field_of(output, error.field), str(error)) from None


def _field_of(output: RequestOutput, field: str) -> str:
    match = _OUTPUT.fullmatch(field)
    if match is not None and output.info is not None:
        wrong = _unfinished(output, output.info.sampling_params.n)[int(match[1])].index
        numbers = [number for number, each in enumerate(output.outputs) if each.index == wrong]
        return f"output.outputs[{numbers[0]}]{match[2]}" if numbers else "output.outputs"
    for theirs, ours in _NAMES.items():
        if field == theirs or field.startswith(f"{theirs}."):
            return ours + field.removeprefix(theirs)
    return field


def final_only(output: RequestOutput) -> RequestOutput:
    """The same, of which the next output is the last."""
    if output.info is None:
        return output
    params = output.info.sampling_params.clone(output_kind=RequestOutputKind.FINAL_ONLY)
    return replace(output, info=replace(output.info, sampling_params=params))


def continued_outputs(output: RequestOutput, info: ModelInfo) -> "Continued":
    """What an engine is given of an output. Raises InvalidRequestError if it cannot go on."""
    from engine_service.core.continued import Continued

    if output.info is None:
        raise InvalidRequestError("output.info", "nothing has come of it yet: generate it anew")
    if output.info.model_fingerprint not in ("", info.model_fingerprint):
        raise InvalidRequestError("output.info", "the output is another model's")
    if output.info.prompt_tokens != len(output.prompt_token_ids):
        raise InvalidRequestError(
            "output.prompt_token_ids",
            f"has {len(output.prompt_token_ids)} of the prompt's {output.info.prompt_tokens} ids",
        )
    n = output.info.sampling_params.n
    if len(output.outputs) > n:
        raise InvalidRequestError(
            "output.outputs",
            f"has {len(output.outputs)} outputs of a request with n = {n}; of several branches "
            "each is resumed by itself",
        )
    if output.finished and len(output.outputs) == n:
        raise InvalidRequestError("output", "has ended, so that nothing can follow")
    _check_outputs(output, n, info)
    return Continued([_continued(each) for each in _unfinished(output, n)])


def take_received(state: "GenerationState", output: RequestOutput) -> None:
    """Brings the state of a resumed request to where its output ends.

    Raises InvalidRequestError if a stop string has ended the output.
    """
    for each in output.outputs:
        if each.finished():
            state.result.outputs[each.index] = replace(each, request_id=state.result.request_id)
        elif each.token_ids and state.take(_delta(each, state.result.request_id)):
            raise InvalidRequestError("output", "has ended with a stop string")
    state.report()


def _unfinished(output: RequestOutput, n: int) -> list[CompletionOutput]:
    """Of each of the n continuations that has not ended: what there is, or an empty output."""
    known = {each.index: each for each in output.outputs}
    outputs = [known.get(index) or CompletionOutput(index=index) for index in range(n)]
    return [each for each in outputs if not each.finished()]


def _check_outputs(output: RequestOutput, n: int, info: ModelInfo) -> None:
    """What would not do as a ContinuedOutput at all."""
    from engine_service.engine.admission import check_ids

    seen: set[int] = set()
    for number, each in enumerate(output.outputs):
        field = f"output.outputs[{number}]"
        if not 0 <= each.index < n:
            raise InvalidRequestError(f"{field}.index", f"must be below n ({n}), got {each.index}")
        if each.index in seen:
            raise InvalidRequestError(f"{field}.index", f"{each.index} is there twice")
        seen.add(each.index)
        check_ids(f"{field}.token_ids", each.token_ids, info)


def _continued(output: CompletionOutput) -> "ContinuedOutput":
    from engine_service.core.continued import ContinuedOutput

    logprobs = [position.token.logprob or 0.0 for position in output.logprobs]
    return ContinuedOutput(output.index, output.token_ids, logprobs=logprobs)


def _delta(output: CompletionOutput, request_id: str) -> CompletionOutput:
    return CompletionOutput(
        request_id=request_id,
        index=output.index,
        token_ids=list(output.token_ids),
        logprobs=list(output.logprobs),
        cumulative_logprob=output.cumulative_logprob,
    )

"""Recording: an answer as a line that `folovllm replay` runs again; see docs/audit.md."""

import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from folovllm.chat_outputs import ChatAnswer, ChatFinishReason, ChatResult
from folovllm.errors import InvalidRequestError
from folovllm.logprobs import PositionLogprobs
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.records.packed import id_bytes
from folovllm.records.record import Ending, Origin, Record, RecordedOutput, RecordKind
from folovllm.vllm_names import RequestOutputKind

# What only an LLM in this process has, and no token depends on.
_SENDABLE = {
    "output_kind": RequestOutputKind.CUMULATIVE,
    "detokenize": True,
    "truncate_prompt_tokens": None,
}


def record_of(
    answer: RequestOutput | ChatResult,
    model_info: ModelInfo,
    prompt_token_ids: Sequence[int] = (),
) -> Record:
    """The record of a complete answer, whose line is `record_of(…).to_line()`.

    `model_info` is the server's. `prompt_token_ids` are needed where the answer has none: of a
    chat they are what `apply_chat_template` returns for it. Raises InvalidRequestError if something
    is missing, or the ids are another prompt's.
    """
    info = answer.info
    if info is None or not answer.finished:
        raise InvalidRequestError("answer", "the answer is not complete")
    prompt = _prompt(answer, prompt_token_ids)
    outputs = answer.outputs if isinstance(answer, RequestOutput) else answer.answers
    num_parent_tokens = len(info.parent_output_token_ids)
    if num_parent_tokens and len(outputs) > 1:
        raise InvalidRequestError("answer", "of several branches each is recorded by itself")
    ends = [each if isinstance(each, CompletionOutput) else each.finish for each in outputs]
    return Record(
        request_id=answer.request_id,
        time=time.time(),
        prompt_token_ids=prompt,
        sampling_params=info.sampling_params.clone(**_SENDABLE).to_proto(),
        outputs=[_recorded(each) for each in outputs],
        origin=Origin(
            model_id=model_info.model_id,
            server_version=model_info.server_version,
            model_fingerprint=info.model_fingerprint,
            weights_fingerprint=model_info.weights_fingerprint,
            tokenizer_fingerprint=info.tokenizer_fingerprint,
            numerics_fingerprint=info.numerics_fingerprint or model_info.numerics_fingerprint,
        ),
        kind=RecordKind.BRANCH if num_parent_tokens else RecordKind.REQUEST,
        num_parent_output_tokens=num_parent_tokens,
        exact=all(each is not None and each.exact is not False for each in ends),
        num_moves=max(each.num_moves for each in ends if each is not None),
    )


def append_record(file: str | Path, record: Record) -> None:
    """Appends a record's line to a file, which is made with mode 0600.

    Raises ConfigError for a file that is another user's or that others may read, and OSError.
    """
    from folovllm.records.record_file import RecordFile  # not on every system

    opened = RecordFile(Path(file))
    try:
        opened.append(record.to_line().encode())
    finally:
        opened.close()


def _prompt(answer: RequestOutput | ChatResult, given: Sequence[int]) -> Sequence[int]:
    """The ids of the prompt, from the answer if it has them."""
    assert answer.info is not None
    own = answer.prompt_token_ids if isinstance(answer, RequestOutput) else ()
    prompt = own or answer.info.prompt_token_ids or given
    if len(prompt) != answer.info.prompt_tokens:
        raise InvalidRequestError(
            "prompt_token_ids",
            f"has {len(prompt)} of the prompt's {answer.info.prompt_tokens} ids",
        )
    fingerprint = answer.info.prompt_fingerprint
    if fingerprint and sha256(id_bytes(prompt)).hexdigest() != fingerprint:
        raise InvalidRequestError("prompt_token_ids", "is not the prompt of the answer")
    return prompt


def _recorded(output: CompletionOutput | ChatAnswer) -> RecordedOutput:
    if isinstance(output, CompletionOutput):
        reason, stop_reason = output.finish_reason, output.stop_reason
    else:
        assert output.finish is not None
        reason, stop_reason = _plain(output.finish.reason), output.finish.stop_reason
    assert reason is not None
    ending = Ending.STOP_STRING if isinstance(stop_reason, str) else Ending(reason.value)
    return RecordedOutput(output.index, output.token_ids, _own(output.logprobs), ending)


def _plain(reason: ChatFinishReason) -> FinishReason:
    """What ended the tokens of an answer."""
    if reason is ChatFinishReason.TOOL_CALLS:
        return FinishReason.STOP
    return FinishReason(reason.value)


def _own(positions: Sequence[PositionLogprobs]) -> list[float]:
    """The log-probability of each token itself."""
    return [position.token.logprob or 0.0 for position in positions]

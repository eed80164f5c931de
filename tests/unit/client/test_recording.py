"""An answer that a client has got, as a record."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from folovllm.chat_outputs import ChatAnswer, ChatFinish, ChatFinishReason, ChatResult
from folovllm.errors import InvalidRequestError
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, FinishReason, RequestInfo, RequestOutput
from folovllm.records.packed import id_bytes
from folovllm.records.reading import read_records
from folovllm.records.record import Ending, Origin, RecordKind
from folovllm.sampling_params import SamplingParams
from folovllm.vllm_names import RequestOutputKind
from folovllm_client.api.recording import append_record, record_of

SERVED = ModelInfo("model", server_version="0.1.0", weights_fingerprint="w")
PROMPT = [3, 4]


def info(**values: object) -> RequestInfo:
    params = SamplingParams(
        n=2, seed=1, max_tokens=8, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
    )
    known = RequestInfo(
        params,
        model_fingerprint="m",
        tokenizer_fingerprint="t",
        prompt_tokens=2,
        numerics_fingerprint="n",
        prompt_fingerprint=sha256(id_bytes(PROMPT)).hexdigest(),
    )
    return replace(known, **values)  # type: ignore[arg-type]


def output(index: int, *token_ids: int, stop_reason: str | None = None) -> CompletionOutput:
    return CompletionOutput(
        "r",
        index,
        token_ids=[*token_ids],
        logprobs=[PositionLogprobs(Logprob(each, -0.5, 1), ()) for each in token_ids],
        finish_reason=FinishReason.STOP,
        stop_reason=stop_reason,
        exact=True,
        num_moves=index,
    )


def answer() -> RequestOutput:
    outputs = [output(0, 5), output(1, 6, 7, stop_reason="\n")]
    return RequestOutput("r", "ab", PROMPT, outputs, info())


def test_an_answer_becomes_a_record_that_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    for _ in range(2):
        append_record(file, record_of(answer(), SERVED))
    assert file.stat().st_mode & 0o777 == 0o600
    (_, first), (line, second) = read_records(file)
    assert (line, first.request_id, second.request_id) == (2, "r", "r")
    assert first.origin == Origin("model", "0.1.0", "m", "w", "t", "n")
    assert (first.kind, first.exact, first.num_moves) == (RecordKind.REQUEST, True, 1)
    assert list(first.prompt_token_ids) == PROMPT
    assert [list(each.token_ids) for each in first.outputs] == [[5], [6, 7]]
    assert [each.ending for each in first.outputs] == [Ending.STOP, Ending.STOP_STRING]
    assert [*first.outputs[1].logprobs] == [-0.5, -0.5]


def test_a_chats_answer_needs_its_prompt() -> None:
    ends = [ChatFinish(reason) for reason in (ChatFinishReason.TOOL_CALLS, ChatFinishReason.LENGTH)]
    answers = [ChatAnswer(index, token_ids=[9], finish=each) for index, each in enumerate(ends)]
    chat = ChatResult("c", answers, info())
    whole = record_of(chat, SERVED, PROMPT)
    assert [each.ending for each in whole.outputs] == [Ending.STOP, Ending.LENGTH]
    assert whole.request_id == "c"
    for prompt, problem in (((), "has 0 of the prompt's 2 ids"), ([4, 3], "is not the prompt")):
        with pytest.raises(InvalidRequestError, match=problem) as raised:
            record_of(chat, SERVED, prompt)
        assert raised.value.field == "prompt_token_ids"


def test_a_branch_says_what_its_parent_generated() -> None:
    branch = RequestOutput("f", None, PROMPT, [output(0, 5)], info(parent_output_token_ids=(4,)))
    whole = record_of(branch, SERVED)
    assert (whole.kind, whole.num_parent_output_tokens) == (RecordKind.BRANCH, 1)
    with pytest.raises(InvalidRequestError, match="each is recorded by itself"):
        record_of(replace(branch, outputs=[output(0, 5), output(1, 5)]), SERVED)


def test_what_is_not_complete_is_refused() -> None:
    running = replace(answer(), outputs=[CompletionOutput("r")])
    for incomplete in (running, replace(answer(), info=None)):
        with pytest.raises(InvalidRequestError, match="not complete"):
            record_of(incomplete, SERVED)

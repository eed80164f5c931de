"""Judge: whether what came of a request is its undisturbed run, or an end that was due."""

from functools import reduce
from operator import add

from folovllm.chat_outputs import ChatAnswer, ChatOutput, ChatResult
from folovllm.outputs import CompletionOutput, Usage
from folovllm.sampling_params import SamplingParams
from folovllm.score import ContinuationScore
from folovllm.v1 import types_pb2
from simulation.callers import IndexRecord, Record
from simulation.engine_host import MAX_MODEL_LEN
from simulation.messages import prompt_of, resolved
from simulation.reference import Expected, expected_output
from simulation.tokens import TOKENIZER, advance, logprobs_of, state_after
from tokenizer_service.chat.chat_processor import ChatProcessor
from tokenizer_service.chat.markers import ChatMarkers, ThinkingState
from tokenizer_service.chat.parser import ChatParser
from tokenizer_service.text.output_processor import OutputProcessor

_MARKERS = ChatMarkers.of(TOKENIZER)


class Judge:
    """Judges records, each when it has ended."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        """What is not as it must be."""
        self._expected: dict[tuple[int, int], Expected] = {}
        self._params: SamplingParams | None = None

    def judge(self, record: Record) -> None:
        """Compares what has come with what was to come."""
        for complaint in record.complaints:
            self._complain(record, complaint)
        if record.kind == "score":
            self._judge_score(record)
            return
        self._params = None
        complete = record.error is None and not record.left
        num_indexes = self._num_indexes(record)
        if complete and sorted(record.indexes) != list(range(num_indexes)):
            self._complain(record, f"has indexes {sorted(record.indexes)} of {num_indexes}")
        for index, got in sorted(record.indexes.items()):
            if index >= num_indexes:
                self._complain(record, f"has an index {index} of {num_indexes}")
                continue
            self._judge_index(record, index, got, complete)

    def _num_indexes(self, record: Record) -> int:
        if record.kind == "fork":
            assert record.spec.fork is not None
            return len(record.spec.fork.branches)
        return int(record.spec.params.get("n", 1))

    def _complain(self, record: Record, complaint: str) -> None:
        self.complaints.append(f"{record.name}: {complaint}")

    def _judge_index(self, record: Record, index: int, got: IndexRecord, complete: bool) -> None:
        if complete and got.final is None:
            self._complain(record, f"index {index} has no final message")
            return
        expected = self._expect(record, index)
        if expected is None:
            if got.token_ids:
                self._complain(record, f"index {index} has tokens and no info")
            return
        assert self._params is not None
        compare = _compare_chat if record.kind == "chat" else _compare
        complaint = compare(record, index, self._params, expected)
        if not complaint and got.final is not None and not got.final.exact:
            complaint = "is not exact"
        if complaint:
            self._complain(record, f"index {index} {complaint}")

    def _expect(self, record: Record, index: int) -> Expected | None:
        spec, prompt = record.spec, prompt_of(record.spec)
        if record.kind == "fork":
            return self._expect_branch(record, index)
        info = record.infos.get(0)
        if info is None:
            return None
        seed = self._seed(record, info, spec.params)
        params = self._params = self._params or resolved(spec, spec.params, seed)
        if info.prompt_tokens != len(prompt):
            self._complain(record, f"says that its prompt has {info.prompt_tokens} tokens")
        numerics = info.numerics_fingerprint
        expected = expected_output(prompt, params, index, MAX_MODEL_LEN, numerics=numerics)
        self._expected[spec.number, index] = expected
        return expected

    def _expect_branch(self, record: Record, index: int) -> Expected | None:
        spec, info = record.spec, record.infos.get(index)
        assert spec.fork is not None
        if info is None:
            return None
        parent = self._expected.get((spec.number, spec.fork.index))
        ids = list(info.parent_output_token_ids)
        if parent is not None and parent.token_ids[: len(ids)] != ids:
            self._complain(record, f"branch {index} begins with {ids}, no output of its parent")
        branch = spec.fork.branches[index]
        params = self._params = resolved(spec, branch, self._seed(record, info, branch))
        return expected_output(
            (*spec.prompt, *ids),
            params,
            0,
            MAX_MODEL_LEN,
            len(ids),
            numerics=info.numerics_fingerprint,
        )

    def _seed(self, record: Record, info: types_pb2.RequestInfo, params: dict[str, object]) -> int:
        seed = info.sampling_params.seed
        if "seed" in params and params["seed"] != seed:
            self._complain(record, f"was drawn with seed {seed} instead of {params['seed']}")
        return seed

    def _judge_score(self, record: Record) -> None:
        if record.error is not None or record.left:
            return
        assert record.scores is not None
        prompt = record.spec.prompt
        half = len(prompt) // 2
        continuations = (prompt[half:], prompt[half:][::-1])
        for ids, got in zip(continuations, record.scores.continuations, strict=True):
            state, positions = state_after(prompt[:half]), []
            for token_id in ids:
                positions.append(logprobs_of(state, token_id, 0))
                state = advance(state, token_id)
            if ContinuationScore.from_logprobs(positions).to_proto() != got:
                self._complain(record, f"scores {got}")


def _delta(record: Record, index: int, expected: Expected) -> CompletionOutput:
    """The whole undisturbed run as one output of an engine."""
    total = reduce(add, (each.token.logprob or 0.0 for each in expected.logprobs), 0.0)
    return CompletionOutput(
        "",
        index,
        token_ids=list(expected.token_ids),
        logprobs=list(expected.logprobs),
        cumulative_logprob=total if expected.logprobs else None,
        finish_reason=expected.finish_reason,
        stop_reason=expected.stop_token_id,
        output_complete=expected.output_complete,
        usage=Usage(0, len(expected.token_ids)),
    )


def _compare(record: Record, index: int, params: SamplingParams, expected: Expected) -> str:
    """What differs between what came and the undisturbed run; empty if nothing does."""
    got = record.indexes[index]
    preceding = record.infos[index].parent_output_token_ids if record.kind == "fork" else ()
    processor = OutputProcessor(TOKENIZER, params, tuple(preceding))
    whole, _ = processor.process(_delta(record, index, expected))
    assert whole is not None
    if got.token_ids != whole.token_ids[: len(got.token_ids)]:
        return f"says {got.token_ids} instead of {whole.token_ids}"
    text = "".join(got.texts)
    if not whole.text.startswith(text):
        return f"has the text {text!r} instead of {whole.text!r}"
    logprobs = [each.to_proto() for each in whole.logprobs[: len(got.token_ids)]]
    if got.logprobs != logprobs:
        return f"has other logprobs: {len(got.logprobs)} for {len(logprobs)}"
    final = got.final
    if final is None:
        return ""
    assert isinstance(final, types_pb2.CompletionOutput)
    end = CompletionOutput.from_proto(final)
    if len(got.token_ids) != len(whole.token_ids) or text != whole.text:
        return f"ends early, with {len(got.token_ids)} of {len(whole.token_ids)} tokens, {text!r}"
    ends = [(each.finish_reason, each.stop_reason, each.output_complete) for each in (end, whole)]
    if ends[0] != ends[1]:
        return f"ends with {ends[0]} instead of {ends[1]}"
    if end.usage is None or whole.usage is None:
        return "has no usage"
    if end.usage.completion_tokens != whole.usage.completion_tokens:
        return f"counts {end.usage.completion_tokens} of {whole.usage.completion_tokens} tokens"
    if whole.stop_reason in params.stop or whole.cumulative_logprob is None:
        return ""  # what a stop string cuts off is subtracted, which rounds
    total = whole.to_proto().cumulative_logprob  # as the wire has it
    return "" if got.cumulative_logprob == total else f"sums to {got.cumulative_logprob}"


def _compare_chat(record: Record, index: int, params: SamplingParams, expected: Expected) -> str:
    """The same for a chat's events."""
    spec, got = record.spec, record.indexes[index]
    thinking = ThinkingState.OPEN if spec.thinks else ThinkingState.MAY_BEGIN

    def new_parser(_: int) -> ChatParser:
        return ChatParser(TOKENIZER, _MARKERS, params, thinking, spec.has_tool, lambda: "call")

    processor = ChatProcessor(new_parser, include_stop_token=params.include_stop_str_in_output)
    events, _ = processor.process(_delta(record, index, expected))
    whole = ChatResult.join(events).answers[index]
    mine = ChatAnswer(index)
    for event in got.events:
        mine.add(ChatOutput.from_proto(event))
    if got.token_ids != whole.token_ids[: len(got.token_ids)]:
        return f"says {got.token_ids} instead of {whole.token_ids}"
    if not whole.reasoning_content.startswith(mine.reasoning_content):
        return f"reasons {mine.reasoning_content!r} instead of {whole.reasoning_content!r}"
    if not whole.content.startswith(mine.content):
        return f"says {mine.content!r} instead of {whole.content!r}"
    if got.logprobs != [each.to_proto() for each in whole.logprobs[: len(got.token_ids)]]:
        return f"has other logprobs: {len(got.logprobs)} for {len(whole.logprobs)}"
    if mine.finish is None or whole.finish is None:
        return ""
    texts = [(a.content, a.reasoning_content, len(a.tool_calls)) for a in (mine, whole)]
    if texts[0] != texts[1] or len(got.token_ids) != len(whole.token_ids):
        return f"ends with {texts[0]} instead of {texts[1]}"
    ends = [(f.reason, f.stop_reason, f.output_complete) for f in (mine.finish, whole.finish)]
    return "" if ends[0] == ends[1] else f"ends with {ends[0]} instead of {ends[1]}"

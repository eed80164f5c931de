"""Requests that come with the output they had elsewhere, with a fake model."""

from collections.abc import Sequence
from math import inf

import pytest

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Branch, Request
from engine_service.engine.continued.matchers import matchers_after
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.cut_requests import cut
from support.fakes.engine_factory import make_engine, sequence_of
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import FakeModelRunner, expected_tokens, num_scheduled_tokens
from support.integrity import check_integrity

PROMPT = list(range(1, 23))  # 5 blocks and a half
PARAMS = SamplingParams(max_tokens=12, seed=7, logprobs=0)


def run(
    engine: LLMEngine, request: Request, received: RequestOutput | None = None
) -> RequestOutput:
    """All that comes of a request, behind what was received before."""
    result = received or RequestOutput(request.request_id)
    engine.add_request(request)
    while engine.has_unfinished_requests():
        for output in engine.step():
            result.add(output)
        check_integrity(engine.scheduler)
    return result


def whole(request: Request) -> RequestOutput:
    return run(make_engine()[0], request)


def given(*outputs: Sequence[int], **more: int) -> Continued:
    return Continued([ContinuedOutput(i, ids) for i, ids in enumerate(outputs)], **more)


def computed(runner: FakeModelRunner) -> int:
    return sum(map(num_scheduled_tokens, runner.steps))


def assert_equal(found: RequestOutput, wanted: RequestOutput) -> None:
    """All but times, and what the prefix cache had."""
    assert len(found.outputs) == len(wanted.outputs)
    for output, expected in zip(found.outputs, wanted.outputs, strict=True):
        assert output.usage and expected.usage
        for name in ("token_ids", "logprobs", "cumulative_logprob", "finish_reason", "stop_reason"):
            assert getattr(output, name) == getattr(expected, name)
        assert output.usage.completion_tokens == expected.usage.completion_tokens
        assert output.usage.prompt_tokens == expected.usage.prompt_tokens


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("budget", [64, 7])
@pytest.mark.parametrize("cuts", [(5, 0, 9), (3, 12, 11), (12, 0, 0), (0, 0, 0), (12, 4, 12)])
def test_several_continuations_go_on_each_from_its_own_token(
    cuts: tuple[int, ...], budget: int, caching: bool
) -> None:
    params = PARAMS.clone(n=3, repetition_penalty=1.5)
    request = Request("a", PROMPT, params)
    undisturbed = whole(request)
    rest, received = cut(request, undisturbed, cuts)
    assert rest is not None and rest.continued is not None
    engine, runner = make_engine(
        max_num_seqs=4,
        max_num_batched_tokens=budget,
        enable_prefix_caching=caching,
        speculation="none",
    )
    assert_equal(run(engine, rest, received), undisturbed)
    # The prompt is computed once, and each output but its last token; the prompt's last token also
    # for each that draws after it and did not compute it.
    leader, *others = sorted(output.index for output in rest.continued.outputs)
    again = sum(cuts[index] == 0 for index in others)
    assert computed(runner) == len(PROMPT) + 11 * (1 + len(others)) + again


@pytest.mark.parametrize("caching", [True, False])
def test_what_does_not_fit_beside_the_others_waits(caching: bool) -> None:
    params = PARAMS.clone(n=3)
    request = Request("a", PROMPT, params)
    undisturbed = whole(request)
    rest, received = cut(request, undisturbed, (11, 10, 9))
    assert rest is not None
    engine, _ = make_engine(num_blocks=9, enable_prefix_caching=caching)
    found = run(engine, rest, received)
    assert_equal(found, undisturbed)
    assert [output.metrics and output.metrics.preemptions for output in found.outputs] == [0, 0, 0]
    engine, _ = make_engine(max_num_seqs=1, enable_prefix_caching=caching)
    rest, received = cut(request, undisturbed, (11, 10, 9))
    assert rest is not None
    assert_equal(run(engine, rest, received), undisturbed)


def test_it_waits_with_all_tokens_and_is_made_when_it_runs() -> None:
    engine, _ = make_engine(max_num_seqs=1)
    engine.add_request(Request("busy", [1], PARAMS))
    engine.step()
    engine.add_request(Request("a", PROMPT, PARAMS, continued=given(range(5))))
    assert engine.load().num_queued_tokens == len(PROMPT) + 5
    engine.add_request(Request("moved", PROMPT, PARAMS, moved=True))
    assert engine.end_overdue(0.0, inf) == []  # they have waited elsewhere
    engine.abort_request("moved")
    (output,) = engine.abort_request("a")
    assert output.usage and output.usage.completion_tokens == 5
    assert output.finish_reason is FinishReason.ABORT and not output.token_ids
    engine.add_request(Request("b", PROMPT, PARAMS.clone(n=4), continued=given((), [1])))
    assert engine.load().num_queued_tokens == len(PROMPT)


def test_the_next_leads_where_the_first_is_aborted() -> None:
    request = Request("a", PROMPT, PARAMS.clone(n=3))
    undisturbed = whole(request)
    rest, received = cut(request, undisturbed, (12, 3, 4))
    assert rest is not None
    engine, _ = make_engine(max_num_seqs=4, max_num_batched_tokens=8)
    engine.add_request(rest)
    engine.step()
    for output in engine.abort_request("a", [1]):
        received.add(output)
    while engine.has_unfinished_requests():
        for output in engine.step():
            received.add(output)
    assert received.outputs[1].token_ids == undisturbed.outputs[1].token_ids[:3]
    assert received.outputs[2].token_ids == undisturbed.outputs[2].token_ids


def test_info_comes_once_and_counts_the_prompt() -> None:
    request = Request("a", PROMPT, PARAMS.clone(n=3, prompt_logprobs=1))
    undisturbed = whole(request)
    engine, _ = make_engine()
    run(engine, Request("warm", [*PROMPT, *undisturbed.outputs[1].token_ids], PARAMS))
    rest, _ = cut(request, undisturbed, (12, 9, 3))
    assert rest is not None
    engine.add_request(rest)
    deltas = []
    while engine.has_unfinished_requests():
        deltas += engine.step()
    (delta,) = [delta for delta in deltas if delta.info is not None]
    assert delta.index == 1 and delta.info
    assert delta.info.prompt_tokens == delta.info.cached_tokens == len(PROMPT)
    assert delta.info.sampling_params == request.sampling_params
    assert delta.info.prompt_logprobs == ()  # they came with the first token of index 0


def test_prompt_logprobs_are_computed_where_none_were_sent() -> None:
    request = Request("a", PROMPT, PARAMS.clone(n=2, prompt_logprobs=1))
    undisturbed = whole(request)
    rest, received = cut(request, undisturbed, (0, 4))
    assert rest is not None and undisturbed.info
    found = run(make_engine()[0], rest, received)
    assert found.info and len(found.info.prompt_logprobs) == len(PROMPT)
    assert found.info.prompt_logprobs == undisturbed.info.prompt_logprobs


def test_a_branch_goes_on_under_its_index_and_draws_as_the_first() -> None:
    engine, _ = make_engine()
    params = PARAMS.clone(repetition_penalty=1.5)
    engine.add_request(Request("parent", PROMPT, params))
    for _ in range(3):
        engine.step()
    branches = [Branch(params.clone(seed=seed)) for seed in (7, 8, 9)]
    engine.fork_request("parent", 0, "fork", branches)
    parent = sequence_of(engine, "parent").branch_requests(branches)[2]
    outputs: list[CompletionOutput] = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    branch = [each for each in outputs if each.request_id == "fork" and each.index == 2]
    undisturbed = RequestOutput(outputs=[CompletionOutput()])
    for each in branch:
        each.index = 0
        undisturbed.add(each)
    rest, received = cut(parent, undisturbed, (4,), branch_index=2)
    assert rest is not None and rest.num_parent_output_tokens == 3
    engine, _ = make_engine()
    engine.add_request(rest)
    assert engine.abort_request(rest.request_id, [0]) == []  # there is no such index
    deltas = engine.step()
    # A branch of the branch, by the names that callers know.
    engine.fork_request(rest.request_id, 2, "again", [Branch(params.clone(seed=1))])
    while engine.has_unfinished_requests():
        deltas += engine.step()
    own = [each for each in deltas if each.request_id == rest.request_id]
    assert {each.index for each in own} == {2}
    assert own[0].info
    assert own[0].info.parent_output_token_ids == tuple(parent.prompt_token_ids[-3:])
    for each in own:
        each.index = 0
        received.add(each)
    assert_equal(received, undisturbed)
    (info,) = [each.info for each in deltas if each.request_id == "again" and each.info]
    assert len(info.parent_output_token_ids) == 3 + 5
    assert rest.request_id not in engine._parents


def test_a_fork_of_what_is_still_computed_again() -> None:
    undisturbed = whole(Request("a", PROMPT, PARAMS))
    rest, _ = cut(Request("a", PROMPT, PARAMS), undisturbed, (8,))
    assert rest is not None
    engine, _ = make_engine(max_num_seqs=4, max_num_batched_tokens=8)
    engine.add_request(rest)
    engine.step()
    engine.fork_request("a", 0, "f", [Branch(PARAMS.clone(max_tokens=3), 7)])
    result = RequestOutput()
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.request_id == "f":
                result.add(output)
    prompt = [*PROMPT, *undisturbed.outputs[0].token_ids[:8]]
    assert result.outputs[0].token_ids == expected_tokens(prompt, 3, seed=7)


@pytest.mark.parametrize(
    ("length", "then_free", "ids", "message"),
    [(9, False, [0, 0, 0], "bans"), (2, False, None, "ends after 2 ids")],
)
def test_what_a_grammar_does_not_accept_is_refused(
    length: int, then_free: bool, ids: list[int] | None, message: str
) -> None:
    matcher = FakeMatcher(length, then_free)
    continued = given((), accepted(matcher, 3) if ids is None else ids)
    with pytest.raises(InvalidRequestError, match=message) as caught:
        matchers_after(matcher, continued)
    assert caught.value.field == "continued.outputs[1].token_ids"


def test_matchers_go_on_from_the_given_tokens() -> None:
    start = FakeMatcher(4, then_free=True)
    ids = accepted(start, 6)
    nothing, some, all_ids = matchers_after(start, given((), ids[:2], ids))
    assert all_ids is None  # it went on freely
    assert isinstance(nothing, FakeMatcher) and isinstance(some, FakeMatcher)
    assert nothing._left == start._left == 4 and some._left == 2
    assert matchers_after(None, given((), ids)) == (None, None)


def accepted(matcher: FakeMatcher, count: int) -> list[int]:
    matcher, ids = matcher.copy(), []
    for _ in range(count):
        ids.append(next(token_id for token_id in range(9) if not matcher.bans(token_id)))
        matcher.advance(ids[-1])
    return ids

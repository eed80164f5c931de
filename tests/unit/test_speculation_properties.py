"""Whatever is guessed: the same tokens, ends and log-probabilities, and nothing left behind."""

from dataclasses import dataclass

from fake_engine_factory import make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.fork import Branch, Fork
from engine_service.core.request import Request
from engine_service.llm_engine import LLMEngine
from folovllm.errors import InvalidRequestError, NotFoundError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams

EOS = 2


@dataclass(frozen=True)
class Arrival:
    """One request, when it comes, and when it is aborted or forked, if it is."""

    step: int
    prompt: list[int]
    params: SamplingParams
    abort_after: int | None
    fork_after: int | None


# With so few ids a guess is often right, and ends often come within a draft.
ids = st.integers(0, 2)
parameters = st.builds(
    SamplingParams,
    n=st.sampled_from((1, 1, 1, 3)),
    max_tokens=st.integers(1, 16),
    min_tokens=st.sampled_from((0, 0, 1)),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from(((), (), (), (1,))),
    bad_words_token_ids=st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), max_size=2).map(
        tuple
    ),
    logprobs=st.none() | st.integers(0, 2),
)
arrivals = st.builds(
    Arrival,
    step=st.integers(0, 8),
    prompt=st.lists(ids, min_size=1, max_size=12),
    params=parameters,
    abort_after=st.none() | st.integers(0, 6),
    fork_after=st.none() | st.integers(0, 6),
)


def request(name: str, arrival: Arrival) -> Request:
    return Request(name, arrival.prompt, arrival.params, seed=3)


def alone(made: Request, vocab_size: int) -> RequestOutput:
    """What a request gets without speculation and company."""
    engine, _ = make_engine(vocab_size=vocab_size, eos_token_ids=(EOS,), speculation="none")
    result = RequestOutput()
    engine.add_request(made)
    while engine.has_unfinished_requests():
        for output in engine.step():
            result.add(output)
    return result


def fork(engine: LLMEngine, name: str, arrival: Arrival, parent: Request) -> Request | None:
    """Forks the first sequence; gives the branch as a request of its own, or None for none."""
    seq = parent.get_seqs()[0]
    params = arrival.params.clone(n=1)
    asked = Fork(name, 0, f"{name} forked", [Branch(params, seed=4)])
    try:
        engine.fork_request(asked)
    except (NotFoundError, InvalidRequestError):  # it has ended, or the branch would be too long
        return None
    return asked.requests(seq)[0]


def check(output: CompletionOutput, expected: CompletionOutput) -> None:
    if output.finish_reason is FinishReason.ABORT:
        assert output.token_ids == expected.token_ids[: len(output.token_ids)]
        assert output.logprobs == expected.logprobs[: len(output.logprobs)]
        return
    assert output.token_ids == expected.token_ids
    assert output.logprobs == expected.logprobs
    assert output.cumulative_logprob == expected.cumulative_logprob
    assert output.finish_reason == expected.finish_reason
    assert output.stop_reason == expected.stop_reason
    assert output.usage and expected.usage
    assert output.usage.completion_tokens == expected.usage.completion_tokens


@settings(max_examples=300, deadline=None)
@given(
    st.lists(arrivals, min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 16),
    st.integers(14, 40),
    st.booleans(),
)
def test_speculation_changes_nothing_but_the_steps(
    plan: list[Arrival],
    vocab_size: int,
    max_num_seqs: int,
    extra_budget: int,
    num_blocks: int,
    caching: bool,
) -> None:
    engine, runner = make_engine(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
        enable_prefix_caching=caching,
        eos_token_ids=(EOS,),
        vocab_size=vocab_size,
    )
    references: dict[str, Request] = {}
    results: dict[str, RequestOutput] = {}
    running: dict[str, Request] = {}
    step = 0
    while step <= 14 or engine.has_unfinished_requests():
        for number, arrival in enumerate(plan):
            name = str(number)
            if arrival.step == step:
                running[name] = request(name, arrival)
                references[name] = request(name, arrival)
                results[name] = RequestOutput()
                engine.add_request(running[name])
            if arrival.fork_after is not None and arrival.step + arrival.fork_after == step:
                branch = fork(engine, name, arrival, running[name])
                if branch is not None:
                    references[f"{name} forked"] = branch
                    results[f"{name} forked"] = RequestOutput()
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                for output in engine.abort_request(name):
                    results[name].add(output)
        if engine.has_unfinished_requests():
            for output in engine.step():
                results[output.request_id].add(output)
            assert runner.steps[-1].num_scheduled_tokens <= max_num_seqs + extra_budget
        engine.scheduler.check_integrity()
        step += 1
        assert step < 1000, "the scheduler does not come to an end"
    for name, result in results.items():
        expected = alone(references[name], vocab_size)
        assert len(result.outputs) == len(expected.outputs)
        for output, wanted in zip(result.outputs, expected.outputs, strict=True):
            check(output, wanted)
    assert engine.load().num_free_kv_blocks == num_blocks

"""One step ahead or not: the same tokens, ends and log-probabilities, and nothing left behind."""

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.request import Request
from engine_service.engine.score_requests import score_request
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.random_arrivals import EOS, Arrival, ArrivalRun, arrivals, ids, prompts
from support.fakes.engine_factory import make_engine, make_overlapping_engine
from support.fakes.model_runner import num_scheduled_tokens
from support.integrity import check_integrity

parameters = st.builds(
    SamplingParams,
    n=st.sampled_from((1, 1, 1, 3)),
    max_tokens=st.integers(1, 12),
    min_tokens=st.sampled_from((0, 0, 1)),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from(((), (), (), (1,))),
    bad_words_token_ids=st.sampled_from(((), (), (), ((1,),), ((0, 1),))),
    repetition_penalty=st.sampled_from((1.0, 1.0, 1.0, 1.5)),
    logprobs=st.none() | st.integers(0, 2),
    prompt_logprobs=st.none() | st.none() | st.integers(0, 1),
)
plans = arrivals(
    parameters,
    abort_index=st.none() | st.integers(0, 2),
    grammar=st.none() | st.none() | st.tuples(st.integers(1, 6), st.booleans()),
    priority=st.integers(-1, 1),
)


@settings(max_examples=400, deadline=None)
@given(
    plans,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 16),
    st.integers(13, 40),
    st.booleans(),
)
def test_async_scheduling_changes_nothing_but_the_steps(
    plan: list[Arrival],
    vocab_size: int,
    max_num_seqs: int,
    extra_budget: int,
    num_blocks: int,
    caching: bool,
) -> None:
    engine, runner = make_overlapping_engine(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
        enable_prefix_caching=caching,
        eos_token_ids=(EOS,),
        vocab_size=vocab_size,
    )
    runner.keeps_tokens = True

    def check_step() -> None:
        assert num_scheduled_tokens(runner.launched[-1]) <= max_num_seqs + extra_budget
        assert len(runner.launched[-1].scheduled) <= max_num_seqs

    run = ArrivalRun(engine, plan, check_step)
    run.run()
    assert sorted(runner.events) == sorted(
        (kind, number) for kind in ("launch", "result") for number in range(len(runner.launched))
    )
    run.check()


@settings(max_examples=100, deadline=None)
@given(
    prompts,
    st.lists(st.lists(ids, min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_scores_are_the_same_too(
    prompt: list[int],
    continuations: list[list[int]],
    budget: int,
    max_num_seqs: int,
    num_decoding: int,
) -> None:
    found: list[dict[tuple[str, int], RequestOutput]] = []
    for make in (make_engine, make_overlapping_engine):
        engine, _ = make(
            max_num_batched_tokens=max(budget, max_num_seqs),
            max_num_seqs=max_num_seqs,
            num_blocks=14,
            block_size=2,
        )
        for number in range(num_decoding):
            params = SamplingParams(max_tokens=9)
            engine.add_request(Request(str(number), [number], params, priority=number - 1))
        engine.add_scores("scores", score_request(prompt, continuations, engine.info))
        results: dict[tuple[str, int], RequestOutput] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                key = output.request_id, output.index
                results.setdefault(key, RequestOutput()).add(output)
            check_integrity(engine.scheduler)
        assert engine.load().num_free_kv_blocks == 14
        found.append(results)
    assert found[0].keys() == found[1].keys()
    for key, result in found[0].items():
        (output,), (other,) = (
            [each for each in results[key].outputs if each.index == key[1]] for results in found
        )
        assert (output.token_ids, output.logprobs) == (other.token_ids, other.logprobs)
        assert output.usage and other.usage
        assert output.usage.completion_tokens == other.usage.completion_tokens
        assert result.outputs

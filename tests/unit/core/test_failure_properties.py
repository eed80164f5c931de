"""What fails by itself fails alone: all others get what they get without it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.sampling_params import SamplingParams
from support.builders.random_arrivals import EOS, Arrival, ArrivalRun, arrivals
from support.fakes.engine_factory import make_engine, make_overlapping_engine

parameters = st.builds(
    SamplingParams,
    n=st.sampled_from((1, 1, 1, 3)),
    max_tokens=st.integers(1, 12),
    ignore_eos=st.booleans(),
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
sizes = st.fixed_dictionaries(
    {
        "vocab_size": st.integers(1, 3),
        "max_num_seqs": st.integers(1, 5),
        "num_blocks": st.integers(13, 40),
        "enable_prefix_caching": st.booleans(),
        "max_num_batched_tokens": st.integers(5, 20),
    }
)
ways = st.sampled_from((make_engine, make_overlapping_engine))
# What the probe computes must not overflow: its engine would be broken.
overflows = st.sampled_from((3, 5, 9, 30))


@settings(max_examples=150, deadline=None)
@given(plans, sizes, ways, overflows, st.booleans())
def test_a_token_that_always_overflows_ends_only_those_that_compute_it(
    plan: list[Arrival], size: dict[str, int], make: type, overflow: int, sees_chunks: bool
) -> None:
    engine, runner = make(block_size=2, eos_token_ids=(EOS,), **size)
    runner.overflow, runner.sees_chunks = overflow, sees_chunks
    run = ArrivalRun(engine, plan, lambda: None)
    run.run()
    run.check(overflow)


@settings(max_examples=150, deadline=None)
@given(plans, sizes, ways, st.sets(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=4))
def test_what_is_not_a_number_once_is_never_seen_again(
    plan: list[Arrival], size: dict[str, int], make: type, poison: set[tuple[int, int]]
) -> None:
    engine, runner = make(block_size=2, eos_token_ids=(EOS,), **size)
    runner.poison = poison
    run = ArrivalRun(engine, plan, lambda: None)
    run.run()
    grammars = sum(arrival.grammar is not None for arrival in plan)
    assert len(run.failed) <= runner.num_poisoned + 2 * grammars
    run.check()

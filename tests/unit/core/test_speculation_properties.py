"""Whatever is guessed: the same tokens, ends and log-probabilities, and nothing left behind."""

from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.sampling_params import SamplingParams
from support.builders.random_arrivals import EOS, Arrival, ArrivalRun, arrivals, ids
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import num_scheduled_tokens

# An end often comes within a draft.
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
    repetition_penalty=st.sampled_from((1.0, 1.0, 1.5)),
)


@settings(max_examples=300, deadline=None)
@given(
    arrivals(parameters),
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
    runner.keeps_tokens = True

    def check_step() -> None:
        assert num_scheduled_tokens(runner.steps[-1]) <= max_num_seqs + extra_budget

    run = ArrivalRun(engine, plan, check_step)
    run.run()
    run.check()

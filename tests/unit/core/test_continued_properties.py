"""Cut anywhere and continued in any company: what came before and after equals the undisturbed."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.engine.llm_engine import LLMEngine
from folovllm.sampling_params import SamplingParams
from support.builders.random_arrivals import EOS, Arrival, ArrivalRun, arrivals, ids
from support.fakes.engine_factory import make_engine, make_overlapping_engine
from support.fakes.model_runner import FakeModelRunner

parameters = st.builds(
    SamplingParams,
    n=st.sampled_from((1, 1, 3)),
    max_tokens=st.integers(2, 14),
    min_tokens=st.sampled_from((0, 0, 1, 2)),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from(((), (), (), (1,))),
    bad_words_token_ids=st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), max_size=2).map(
        tuple
    ),
    logprobs=st.none() | st.integers(0, 2),
    prompt_logprobs=st.none() | st.none() | st.integers(0, 1),
    repetition_penalty=st.sampled_from((1.0, 1.0, 1.5)),
)
plans = arrivals(
    parameters,
    abort_index=st.none() | st.integers(0, 2),
    grammar=st.none() | st.none() | st.tuples(st.integers(1, 6), st.booleans()),
    cuts=st.none() | st.tuples(*[st.integers(0, 14)] * 3),
)


@pytest.mark.parametrize("make", [make_engine, make_overlapping_engine])
@settings(max_examples=25, deadline=None)
@given(
    plan=plans,
    vocab_size=st.integers(1, 3),
    max_num_seqs=st.integers(1, 4),
    extra_budget=st.integers(0, 16),
    num_blocks=st.integers(14, 40),
    caching=st.booleans(),
)
def test_what_is_continued_equals_what_was_never_cut(
    make: Callable[..., tuple[LLMEngine, FakeModelRunner]],
    plan: list[Arrival],
    vocab_size: int,
    max_num_seqs: int,
    extra_budget: int,
    num_blocks: int,
    caching: bool,
) -> None:
    engine, _ = make(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
        enable_prefix_caching=caching,
        eos_token_ids=(EOS,),
        vocab_size=vocab_size,
    )
    run = ArrivalRun(engine, plan, lambda: None)
    run.run()
    run.check()

"""One step ahead or not: the same tokens, ends and log-probabilities, and nothing left behind."""

from dataclasses import dataclass

from fake_engine_factory import make_engine, make_overlapping_engine
from fake_matcher import FakeMatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.fork import Branch, Fork
from engine_service.core.request import Request
from engine_service.llm_engine import LLMEngine
from engine_service.scoring import score_requests
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
    grammar: tuple[int, bool] | None
    priority: int
    abort_after: int | None
    abort_index: int | None
    fork_after: int | None

    def matcher(self) -> FakeMatcher | None:
        return None if self.grammar is None else FakeMatcher(*self.grammar)

    def request(self, name: str) -> Request:
        return Request(
            name,
            self.prompt,
            self.params,
            seed=3,
            priority=self.priority,
            matcher=self.matcher(),
        )

    def fork(self, parent: str) -> Fork:
        branch = Branch(self.params.clone(n=1, prompt_logprobs=None), 4, self.matcher())
        return Fork(parent, 0, f"{parent} forked", [branch])


# With so few ids stop tokens and bad words are often met.
ids = st.integers(0, 2)
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
arrivals = st.builds(
    Arrival,
    step=st.integers(0, 8),
    prompt=st.lists(ids, min_size=1, max_size=12),
    params=parameters,
    grammar=st.none() | st.none() | st.tuples(st.integers(1, 6), st.booleans()),
    priority=st.integers(-1, 1),
    abort_after=st.none() | st.integers(0, 6),
    abort_index=st.none() | st.integers(0, 2),
    fork_after=st.none() | st.integers(0, 6),
)


def alone(made: Request, vocab_size: int) -> RequestOutput:
    """What a request gets without lookahead and company."""
    engine, _ = make_engine(vocab_size=vocab_size, eos_token_ids=(EOS,), speculation="none")
    result = RequestOutput()
    engine.add_request(made)
    while engine.has_unfinished_requests():
        for output in engine.step():
            result.add(output)
    return result


def fork(engine: LLMEngine, name: str, arrival: Arrival, parent: Request) -> Request | None:
    """Forks the first sequence; gives the branch as a request of its own, or None for none."""
    try:
        engine.fork_request(arrival.fork(name))
    except (NotFoundError, InvalidRequestError):  # it has ended, or the branch would be too long
        return None
    return arrival.fork(name).requests(parent.get_seqs()[0])[0]


def check(output: CompletionOutput, expected: CompletionOutput) -> None:
    assert output.usage and expected.usage
    assert output.usage.prompt_tokens == expected.usage.prompt_tokens
    assert output.usage.completion_tokens == len(output.token_ids)
    if output.finish_reason is FinishReason.ABORT:
        assert output.token_ids == expected.token_ids[: len(output.token_ids)]
        assert output.logprobs == expected.logprobs[: len(output.logprobs)]
        return
    assert output.token_ids == expected.token_ids
    assert output.logprobs == expected.logprobs
    assert output.cumulative_logprob == expected.cumulative_logprob
    assert output.finish_reason == expected.finish_reason
    assert output.stop_reason == expected.stop_reason
    assert output.output_complete == expected.output_complete


@settings(max_examples=400, deadline=None)
@given(
    st.lists(arrivals, min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 16),
    st.integers(13, 40),
    st.booleans(),
)
def test_lookahead_changes_nothing_but_the_steps(
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
    references: dict[str, Request] = {}
    results: dict[str, RequestOutput] = {}
    running: dict[str, Request] = {}
    step = 0
    while step <= 14 or engine.has_unfinished_requests():
        for number, arrival in enumerate(plan):
            name = str(number)
            if arrival.step == step:
                running[name] = arrival.request(name)
                references[name] = arrival.request(name)
                results[name] = RequestOutput()
                engine.add_request(running[name])
            if arrival.fork_after is not None and arrival.step + arrival.fork_after == step:
                branch = fork(engine, name, arrival, running[name])
                if branch is not None:
                    references[f"{name} forked"] = branch
                    results[f"{name} forked"] = RequestOutput()
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                indexes = () if arrival.abort_index is None else (arrival.abort_index,)
                for output in engine.abort_request(name, indexes):
                    results[name].add(output)
        engine.scheduler.check_integrity()
        if engine.has_unfinished_requests():
            for output in engine.step():
                results[output.request_id].add(output)
            assert runner.launched[-1].num_scheduled_tokens <= max_num_seqs + extra_budget
            assert len(runner.launched[-1].scheduled) <= max_num_seqs
        engine.scheduler.check_integrity()
        step += 1
        assert step < 1000, "the scheduler does not come to an end"
    assert sorted(runner.events) == sorted(
        (kind, number) for kind in ("launch", "result") for number in range(len(runner.launched))
    )
    for name, result in results.items():
        expected = alone(references[name], vocab_size)
        assert len(result.outputs) == len(expected.outputs)
        for output, wanted in zip(result.outputs, expected.outputs, strict=True):
            check(output, wanted)
        if result.outputs[0].token_ids:
            assert result.info and expected.info
            assert result.info.prompt_logprobs == expected.info.prompt_logprobs
    assert engine.load().num_free_kv_blocks == num_blocks
    assert engine.load().num_queued_tokens == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(ids, min_size=1, max_size=12),
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
        engine.add_scores("scores", score_requests(prompt, continuations, engine.info))
        results: dict[tuple[str, int], RequestOutput] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                key = output.request_id, output.index
                results.setdefault(key, RequestOutput()).add(output)
            engine.scheduler.check_integrity()
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

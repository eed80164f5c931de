"""Whatever comes in whatever order: every token is right, and nothing is left behind."""

from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.request import Request, Sequence
from engine_service.core.waiting.scheduling_policy import PriorityThenArrival, SchedulingPolicy
from engine_service.core.waiting.waiting_sequence import WaitingSequence
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_tokens, num_scheduled_tokens
from support.integrity import check_integrity


@dataclass(frozen=True)
class Arrival:
    """One request: when it comes, what it asks, and when it is aborted, if it is."""

    step: int
    prompt: list[int]
    n: int
    max_tokens: int
    priority: int
    abort_after: int | None
    abort_index: int | None
    arrival_time: float


# Few distinct tokens and lengths, so that prefixes are often equal.
arrivals = st.builds(
    Arrival,
    step=st.integers(0, 12),
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=14),
    n=st.integers(1, 4),
    max_tokens=st.integers(1, 8),
    priority=st.integers(-1, 1),
    abort_after=st.none() | st.integers(0, 6),
    abort_index=st.none() | st.integers(0, 3),
    arrival_time=st.sampled_from((1.0, 2.0)),
)


class LatestFirst(PriorityThenArrival):
    """Another order, for those that wait and those that run."""

    def add(self, waiting: WaitingSequence) -> None:
        self._waiting.append(waiting)

    def remove(self, waiting: WaitingSequence) -> None:
        self._waiting.remove(waiting)

    def first(self) -> WaitingSequence:
        return max(self._waiting, key=lambda each: (each.group.arrival_order, -each.index))

    def last(self, running: Iterable[Sequence]) -> Sequence:
        return min(running, key=lambda each: (each.group.arrival_order, -each.index))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(arrivals, min_size=1, max_size=10),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(11, 40),
    st.booleans(),
    st.sampled_from((PriorityThenArrival, LatestFirst)),
)
def test_every_request_gets_its_own_answer(
    plan: list[Arrival],
    max_num_seqs: int,
    extra_budget: int,
    num_blocks: int,
    caching: bool,
    policy: type[SchedulingPolicy],
) -> None:
    engine, runner = make_engine(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
        enable_prefix_caching=caching,
        policy=policy(),
    )
    runner.keeps_tokens = True
    results = {str(number): RequestOutput() for number in range(len(plan))}
    step = 0
    while step <= 20 or engine.has_unfinished_requests():
        for number, arrival in enumerate(plan):
            name = str(number)
            if arrival.step == step:
                params = SamplingParams(n=arrival.n, max_tokens=arrival.max_tokens)
                request = Request(
                    name,
                    arrival.prompt,
                    params,
                    seed=3,
                    priority=arrival.priority,
                    arrival_time=arrival.arrival_time,
                )
                engine.add_request(request)
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                indexes = () if arrival.abort_index is None else (arrival.abort_index,)
                for output in engine.abort_request(name, indexes):
                    results[name].add(output)
        if engine.has_unfinished_requests():
            for output in engine.step():
                results[output.request_id].add(output)
            executed = runner.steps[-1]
            assert 1 <= num_scheduled_tokens(executed) <= max_num_seqs + extra_budget
            assert len(executed.scheduled) <= max_num_seqs
        check_integrity(engine.scheduler)
        step += 1
        assert step < 2000, "the scheduler does not come to an end"
    for name, arrival in zip(results, plan, strict=True):
        outputs = results[name].outputs
        assert len(outputs) == arrival.n and all(output.finished() for output in outputs)
        assert results[name].info is not None
        for output in outputs:
            whole = expected_tokens(arrival.prompt, arrival.max_tokens, seed=3, index=output.index)
            if output.finish_reason == "length":
                assert output.token_ids == whole
            else:
                assert output.token_ids == whole[: len(output.token_ids)]
    assert engine.load().num_free_kv_blocks == num_blocks
    assert engine.load().num_queued_tokens == 0

"""Requests that may end the engine run one at a time until each has a token."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Branch, Request
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine, make_overlapping_engine, sequence_of
from support.fakes.model_runner import expected_tokens
from support.integrity import check_integrity


@dataclass(frozen=True)
class Arrival:
    """One request, with what it has generated elsewhere of each continuation."""

    step: int
    num_prompt_tokens: int
    num_given: tuple[int, ...]
    is_suspect: bool
    arrival_time: float
    abort_after: int | None

    def request(self, name: str) -> Request:
        prompt = [3] * self.num_prompt_tokens
        n = len(self.num_given)
        params = SamplingParams(n=n, max_tokens=7, seed=3, ignore_eos=True)
        outputs = tuple(
            ContinuedOutput(index, expected_tokens(prompt, count, seed=3, index=index))
            for index, count in enumerate(self.num_given)
        )
        return Request(
            name,
            prompt,
            params,
            arrival_time=self.arrival_time,
            is_suspect=self.is_suspect,
            moved=self.is_suspect,
            continued=Continued(outputs) if any(self.num_given) else None,
        )


arrivals = st.builds(
    Arrival,
    step=st.integers(0, 9),
    num_prompt_tokens=st.integers(1, 20),
    num_given=st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple),
    is_suspect=st.sampled_from((True, True, False)),
    arrival_time=st.sampled_from((1.0, 2.0)),
    abort_after=st.none() | st.integers(0, 6),
)


class Watch:
    """Looks at each step as it begins: which suspects run that have had no token here."""

    def __init__(self, engine: LLMEngine, plan: list[Arrival]) -> None:
        self.engine = engine
        self.results = {str(number): RequestOutput() for number in range(len(plan))}
        self.untried = {str(number) for number, each in enumerate(plan) if each.is_suspect}
        self.started: list[str] = []
        engine.on_scheduled = self.look

    def look(self, names: list[str]) -> None:
        self.started += names
        running = {seq.request.request_id for seq in self.engine.scheduler._states.running.values()}
        assert len(running & self.untried) <= 1

    def step(self) -> None:
        for output in self.engine.step():
            self.results[output.request_id].add(output)
            self.untried.discard(output.request_id)
        self.look([])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(arrivals, min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(14, 40),
    st.booleans(),
)
def test_no_two_run_before_either_has_a_token_and_all_come_to_their_end(
    plan: list[Arrival], max_num_seqs: int, extra_budget: int, num_blocks: int, overlapping: bool
) -> None:
    make = make_overlapping_engine if overlapping else make_engine
    engine, _ = make(
        num_blocks=num_blocks,
        block_size=2,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + extra_budget,
    )
    watch, step = Watch(engine, plan), 0
    while step < 16 or engine.has_unfinished_requests():
        for number, arrival in enumerate(plan):
            if arrival.step == step:
                engine.add_request(arrival.request(str(number)))
            if arrival.abort_after is not None and arrival.step + arrival.abort_after == step:
                for output in engine.abort_request(str(number)):
                    watch.results[output.request_id].add(output)
        if engine.has_unfinished_requests():
            watch.step()
        check_integrity(engine.scheduler)
        step += 1
        assert step < 2000, "the scheduler does not come to an end"
    for name, arrival in zip(watch.results, plan, strict=True):
        outputs = watch.results[name].outputs
        assert len(outputs) == len(arrival.num_given)
        for output, num_given in zip(outputs, arrival.num_given, strict=True):
            assert output.finished()
            if arrival.abort_after is None:
                prompt = [3] * arrival.num_prompt_tokens
                whole = expected_tokens(prompt, 7, seed=3, index=output.index)
                assert output.token_ids == whole[num_given:]


def test_others_run_beside_one_and_none_behind_it_overtakes_it() -> None:
    engine, runner = make_engine()
    plan = [
        Arrival(0, 4, (0,), is_suspect, at, None)
        for is_suspect, at in ((False, 1), (True, 2), (False, 3), (True, 4), (False, 5), (True, 6))
    ]
    watch = Watch(engine, plan)
    for number, arrival in enumerate(plan):
        engine.add_request(arrival.request(str(number)))
    begun = []
    for _ in range(3):
        watch.step()
        begun.append(len(watch.started))
    assert watch.started == ["0", "1", "2", "3", "4", "5"]
    assert begun == [3, 5, 6]


def test_a_branch_of_one_is_new() -> None:
    engine, _ = make_engine()
    engine.add_request(Arrival(0, 4, (0,), True, 1, None).request("a"))
    engine.step()
    (branch,) = sequence_of(engine, "a").branch_requests([Branch(SamplingParams())])
    assert not branch.is_suspect and not branch.moved

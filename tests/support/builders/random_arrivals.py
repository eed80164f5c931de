"""Random requests that come, fork and are aborted at any step, and what each gets by itself.

An engine that speculates or plans ahead has to give every request what it gets alone without that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from engine_service.core.request import Branch, Request
from engine_service.engine.continued.matchers import matchers_after
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import InvalidRequestError, NotFoundError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.cut_requests import add, cut
from support.fakes.engine_factory import make_engine, sequence_of
from support.fakes.matcher import FakeMatcher
from support.integrity import check_integrity

EOS = 2
# With so few ids stop tokens and bad words are often met, and guesses are often right.
ids = st.integers(0, 2)
prompts = st.lists(ids, min_size=1, max_size=12)


@dataclass(frozen=True)
class Arrival:
    """One request, when it comes, and when it is aborted or forked, if it is."""

    step: int
    prompt: list[int]
    params: SamplingParams
    abort_after: int | None
    fork_after: int | None
    abort_index: int | None = None
    """The sequence that is aborted; None for all."""
    grammar: tuple[int, bool] | None = None
    priority: int = 0
    cuts: tuple[int, int, int] | None = None
    """Where each of its outputs is cut before it comes; see `cut_requests.cut`."""

    def request(self, name: str) -> Request:
        return Request(name, self.prompt, self.params, seed=3, priority=self.priority)

    def branch(self) -> Branch:
        return Branch(self.params.clone(n=1, prompt_logprobs=None), 4)

    def matcher(self) -> FakeMatcher | None:
        return None if self.grammar is None else FakeMatcher(*self.grammar)


def arrivals(
    params: st.SearchStrategy[SamplingParams], **more: st.SearchStrategy[object]
) -> st.SearchStrategy[list[Arrival]]:
    """Up to six; `more` are fields that else have their defaults."""
    arrival = st.builds(
        Arrival,
        step=st.integers(0, 8),
        prompt=prompts,
        params=params,
        abort_after=st.none() | st.integers(0, 6),
        fork_after=st.none() | st.integers(0, 6),
        **more,
    )
    return st.lists(arrival, min_size=1, max_size=6)


class ArrivalRun:
    """An engine that runs a plan of arrivals to its end."""

    def __init__(
        self, engine: LLMEngine, plan: Sequence[Arrival], check_step: Callable[[], None]
    ) -> None:
        """`check_step` is called after each of the engine's steps."""
        self._engine = engine
        self._plan = {str(number): arrival for number, arrival in enumerate(plan)}
        self._check_step = check_step
        self._references: dict[str, tuple[Request, FakeMatcher | None]] = {}
        self._results: dict[str, RequestOutput] = {}
        self.failed: set[str] = set()
        """Those that have ended with an error."""
        self.num_continued_tokens = 0
        """Tokens that requests came with as their output."""

    def run(self) -> None:
        step = 0
        while step <= 14 or self._engine.has_unfinished_requests():
            for name, arrival in self._plan.items():
                self._arrive(name, arrival, step)
            check_integrity(self._engine.scheduler)
            if self._engine.has_unfinished_requests():
                self._add(self._engine.step())
                self.failed |= {failure.name for failure in self._engine.drain_failures()}
                self._check_step()
            check_integrity(self._engine.scheduler)
            step += 1
            assert step < 1000, "the scheduler does not come to an end"
        assert self._engine.load().num_free_kv_blocks == self._engine.info.num_kv_blocks
        assert self._engine.load().num_queued_tokens == 0

    def check(self, overflow: int | None = None) -> None:
        """That every request got what it gets alone, or up to an error the beginning of it."""
        for name, result in self._results.items():
            expected, fails = alone(*self._references[name], self._engine.info.vocab_size, overflow)
            if name in self.failed or fails:
                check_beginnings(result, expected)
                continue
            assert len(result.outputs) == len(expected.outputs)
            for output, wanted in zip(result.outputs, expected.outputs, strict=True):
                check_output(output, wanted)
            if result.outputs[0].token_ids:
                assert result.info and expected.info
                assert result.info.prompt_logprobs == expected.info.prompt_logprobs

    def _arrive(self, name: str, arrival: Arrival, step: int) -> None:
        """Adds, forks and aborts what is due."""
        since = step - arrival.step
        if since == 0:
            request = arrival.request(name)
            self._references[name] = request, arrival.matcher()
            if arrival.cuts is None:
                self._results[name] = RequestOutput()
                self._engine.add_request(request, arrival.matcher())
            else:
                self._continue(request, arrival, arrival.cuts)
        if arrival.fork_after == since:
            self._fork(name, arrival)
        if arrival.abort_after == since:
            indexes = () if arrival.abort_index is None else (arrival.abort_index,)
            self._add(self._engine.abort_request(name, indexes))

    def _continue(self, request: Request, arrival: Arrival, cuts: tuple[int, ...]) -> None:
        """Adds what is left of a request, unless nothing is."""
        whole, _ = alone(request, arrival.matcher(), self._engine.info.vocab_size)
        rest, self._results[request.request_id] = cut(request, whole, cuts)
        if rest is not None:
            assert rest.continued is not None
            self.num_continued_tokens += rest.continued.num_tokens
            self._engine.add_request(rest, *matchers_after(arrival.matcher(), rest.continued))

    def _fork(self, name: str, arrival: Arrival) -> None:
        """Forks the first sequence, if it runs; the branch has a request of its own to equal."""
        fork_id, branches = f"{name} forked", [arrival.branch()]
        try:
            self._engine.fork_request(name, 0, fork_id, branches, matchers=[arrival.matcher()])
        except (NotFoundError, InvalidRequestError):  # it has ended, or would be too long
            return
        parent = sequence_of(self._engine, name)
        self._references[fork_id] = parent.branch_requests(branches)[0], arrival.matcher()
        self._results[fork_id] = RequestOutput()

    def _add(self, outputs: Sequence[CompletionOutput]) -> None:
        for output in outputs:
            add(self._results[output.request_id], output)


def alone(
    request: Request, matcher: FakeMatcher | None, vocab_size: int, overflow: int | None = None
) -> tuple[RequestOutput, bool]:
    """What a request gets by itself, without speculation and async scheduling, and if it fails."""
    engine, runner = make_engine(vocab_size=vocab_size, eos_token_ids=(EOS,), speculation="none")
    runner.overflow = overflow
    result, fails = RequestOutput(), False
    engine.add_request(request, matcher)
    while engine.has_unfinished_requests():
        for output in engine.step():
            result.add(output)
        fails = fails or bool(engine.drain_failures())
    return result, fails


def check_beginnings(result: RequestOutput, expected: RequestOutput) -> None:
    """That one of the two has the beginning of the other's tokens, of each continuation."""
    tokens = {output.index: output.token_ids for output in expected.outputs}
    for output in result.outputs:
        both = zip(output.token_ids, tokens.get(output.index, []), strict=False)
        assert all(token_id == wanted for token_id, wanted in both)


def check_output(output: CompletionOutput, expected: CompletionOutput) -> None:
    """Equal, or if it was aborted the beginning of it."""
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
    assert output.usage.completion_tokens == expected.usage.completion_tokens

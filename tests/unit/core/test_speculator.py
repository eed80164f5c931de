"""When tokens are drafted, how many, and what a step with drafts costs and yields."""

import itertools
from collections.abc import Callable

import pytest

from engine_service.config import SchedulerConfig, parse_args
from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import (
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.request import Request, Sequence
from engine_service.core.scheduler import Scheduler
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.spec_decode.speculator import Speculator, _best_count, _Guesser
from folovllm.errors import ConfigError
from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import expected_tokens, num_scheduled_tokens
from support.integrity import check_integrity

TEXT = list(range(20, 40))
MAX_STEP_TOKENS = 16


class Text:
    """A scheduler, and a model that says what `follows` says, by position."""

    def __init__(
        self,
        follows: Callable[[int], int],
        *,
        num_blocks: int = 100,
        max_num_seqs: int = 16,
        eos_token_ids: frozenset[int] = frozenset(),
        max_model_len: int = 4096,
        token_budget: int = 1024,
    ) -> None:
        self.kv = KVCacheManager(num_blocks, 4, enable_prefix_caching=True)
        limits = SchedulerLimits(max_num_seqs, token_budget, max_model_len, eos_token_ids)
        self.scheduler = Scheduler(limits, self.kv, Speculator(self.kv, limits))
        self._follows = follows
        self.steps: list[SchedulerOutput] = []

    def add(self, name: str, prompt: list[int], **params: object) -> Sequence:
        self.scheduler.add_request(Request(name, prompt, SamplingParams().clone(**params)))
        seq = self.scheduler.find_unfinished(name, 0)
        assert seq is not None
        return seq

    def step(self) -> list[SequenceOutput]:
        planned = self.scheduler.schedule()
        self.steps.append(planned)
        drawn = [
            [self._follows(draw.num_tokens) for draw in s.draws() for _ in s.sample_indexes]
            for s in planned.scheduled
        ]
        changes = self.scheduler.update_from_output(planned, ModelRunnerOutput(drawn))
        check_integrity(self.scheduler)
        return changes

    def run(self) -> None:
        while self.scheduler.has_unfinished_requests():
            self.step()


def drafts(step: SchedulerOutput) -> list[int]:
    return [len(scheduled.draft_token_ids) for scheduled in step.scheduled]


def output_of(seq: Sequence) -> list[int]:
    return list(seq.token_ids[seq.num_prompt_tokens :])


def cycle(position: int) -> int:
    return TEXT[position % len(TEXT)]


def test_text_that_repeats_takes_few_steps() -> None:
    text = Text(cycle)
    seq = text.add("a", TEXT + TEXT[:1], max_tokens=200)
    text.run()
    assert output_of(seq) == [cycle(21 + i) for i in range(200)]
    assert len(text.steps) < 200 / 8
    # Drafts grow with what was right, and the whole step stays bounded.
    sizes = [num_scheduled_tokens(step) for step in text.steps[1:]]
    assert max(sizes) == MAX_STEP_TOKENS
    assert sum(sizes) - len(sizes) < 200


def test_text_where_guesses_are_wrong_has_soon_none_and_has_them_again_when_it_copies() -> None:
    # Pairs repeat, and what follows them never does; from 400 on everything does.
    def follows(position: int) -> int:
        if position >= 400:
            return cycle(position)
        return (1, 2, 100 + position)[position % 3]

    text = Text(follows, num_blocks=300)
    text.add("a", [1, 2, 3, 1], max_tokens=800)
    text.run()
    starts = [step.scheduled[0].num_computed_tokens for step in text.steps]
    numbers = [drafts(step)[0] for step in text.steps]
    misleading = [n for start, n in zip(starts, numbers, strict=True) if start < 400]
    assert 0 < sum(misleading) < 10
    copying = [n for start, n in zip(starts, numbers, strict=True) if start >= 450]
    assert sum(copying) / len(copying) > 8


@pytest.mark.parametrize("max_tokens", range(1, 30, 4))
def test_no_token_is_drawn_past_the_most(max_tokens: int) -> None:
    text = Text(cycle)
    seq = text.add("a", TEXT * 2, max_tokens=max_tokens)
    text.run()
    assert output_of(seq) == [cycle(40 + i) for i in range(max_tokens)]
    for step in text.steps:
        (scheduled,) = step.scheduled
        assert scheduled.num_tokens < len(TEXT) * 2 + max_tokens


def test_the_last_but_one_token_may_have_a_draft() -> None:
    text = Text(cycle)
    text.add("a", TEXT * 2, max_tokens=3)
    text.run()
    assert [drafts(step) for step in text.steps] == [[0], [1]]


def test_a_single_token_that_is_left_of_the_budget_is_a_draft() -> None:
    text = Text(cycle, token_budget=2)
    text.add("a", TEXT * 2, max_tokens=20)
    text.run()
    assert [drafts(step) for step in text.steps[-8:-1]] == [[1]] * 7


def test_no_draft_lies_past_the_context() -> None:
    text = Text(cycle, max_model_len=50)
    seq = text.add("a", TEXT * 2, max_tokens=100)
    text.run()
    assert seq.num_tokens == 50
    assert max(step.scheduled[0].num_tokens for step in text.steps) < 50


def test_an_end_among_accepted_tokens_drops_what_is_after_it() -> None:
    text = Text(cycle, eos_token_ids=frozenset({TEXT[10]}))
    seq = text.add("a", TEXT * 4, max_tokens=100)
    changes = []
    while text.scheduler.has_unfinished_requests():
        changes += text.step()
    assert output_of(seq) == TEXT[:11]
    assert [token_id for change in changes for token_id in change.token_ids] == TEXT[:11]
    assert drafts(text.steps[-1]) > [0]
    assert changes[-1].finished and changes[-1].seq.status.name == "FINISHED_STOPPED"


def test_a_large_batch_has_no_drafts_and_a_smaller_one_shares_them() -> None:
    text = Text(cycle, num_blocks=2000)
    for number in range(16):
        text.add(str(number), TEXT * 2, max_tokens=20 + 20 * (number < 3))
    text.run()
    for step in text.steps:
        assert not any(drafts(step)) or num_scheduled_tokens(step) <= MAX_STEP_TOKENS
    assert [drafts(step) for step in text.steps if len(step.scheduled) == 16] == [[0] * 16] * 20
    shared = [drafts(step) for step in text.steps if len(step.scheduled) == 3]
    assert shared[0] == [5, 4, 4]


def test_drafts_take_only_free_blocks_and_give_wrong_ones_back() -> None:
    # The pool holds the tokens to the end, and no more.
    text = Text(lambda position: cycle(position) if position % 9 else 5, num_blocks=25)
    seq = text.add("a", TEXT * 2 + TEXT[:1], max_tokens=59)
    while text.scheduler.has_unfinished_requests():
        text.step()
        assert len(seq.block_table) in (0, -(-seq.num_computed_tokens // 4))
    assert seq.num_preemptions == 0 and any(drafts(step) != [0] for step in text.steps)


def test_the_prefix_cache_gets_only_what_was_right() -> None:
    text = Text(lambda position: cycle(position) if position % 9 else 5)
    seq = text.add("a", TEXT * 2, max_tokens=60)
    text.run()
    tokens = list(seq.token_ids)
    again = text.add("b", tokens, max_tokens=1)
    text.step()
    assert again.group.num_cached_tokens == (len(tokens) - 1) // 4 * 4
    wrong = text.add("c", [*tokens[:45], 5, 5, 5, *tokens[48:]], max_tokens=1)
    text.step()
    assert wrong.group.num_cached_tokens == 44


def test_each_token_has_its_log_probability_and_a_step_one_piece() -> None:
    engine, runner = make_engine(vocab_size=1)
    params = SamplingParams(max_tokens=40, logprobs=2)
    engine.add_request(Request("a", [0] * 6, params, seed=1))
    result, pieces = RequestOutput(), []
    while engine.has_unfinished_requests():
        outputs = engine.step()
        assert len(outputs) <= 1
        pieces += outputs
    for piece in pieces:
        assert [position.token.token_id for position in piece.logprobs] == piece.token_ids
        result.add(CompletionOutput.from_proto(piece.to_proto()))
    assert max(len(piece.token_ids) for piece in pieces) > 8 and len(runner.steps) < 12
    output = result.outputs[0]
    assert output.token_ids == [0] * 40 and output.finish_reason is FinishReason.LENGTH
    assert output.usage and output.usage.completion_tokens == 40
    total = sum(position.token.logprob or 0.0 for position in output.logprobs)
    assert output.cumulative_logprob == pytest.approx(total)


def test_without_speculation_a_step_brings_one_token() -> None:
    engine, runner = make_engine(vocab_size=1, speculation="none")
    engine.add_request(Request("a", [0] * 6, SamplingParams(max_tokens=10), seed=1))
    while engine.has_unfinished_requests():
        engine.step()
    assert len(runner.steps) == 10


class AnyToken:
    """A grammar of any text."""

    must_stop = is_spent = False

    def advance(self, token_id: int) -> None:
        pass

    def copy(self) -> "AnyToken":
        return self


def test_what_follows_a_grammar_is_not_guessed() -> None:
    engine, runner = make_engine(vocab_size=1)
    params = SamplingParams(max_tokens=10)
    engine.add_request(Request("a", [0] * 6, params), AnyToken())
    while engine.has_unfinished_requests():
        engine.step()
    assert len(runner.steps) == 10


def test_draws_of_drafts_see_the_drafts_before_them() -> None:
    params = SamplingParams(presence_penalty=1.0)
    scheduled = ScheduledSequence(
        seq_id=0,
        token_ids=[3, 7, 8],
        num_computed_tokens=4,
        block_table=[0],
        sampling_params=params,
        seed=0,
        sample_indexes=(0,),
        forbidden_token_ids=(1,),
        token_history=[0, 1, 2, 9, 3],
        draft_token_ids=(7, 8),
        draft_forbidden_token_ids=((2,), ()),
    )
    draws = scheduled.draws()
    assert [draw.num_tokens for draw in draws] == [5, 6, 7]
    assert [draw.assumed_token_ids for draw in draws] == [(), (7,), (7, 8)]
    assert [draw.forbidden_token_ids for draw in draws] == [(1,), (2,), ()]
    assert not any(draw.draft_token_ids for draw in draws)


def test_bad_words_and_min_tokens_count_the_drafts() -> None:
    engine, runner = make_engine(vocab_size=1, eos_token_ids=(5,))
    params = SamplingParams(max_tokens=30, min_tokens=12, bad_words_token_ids=((0, 0, 7),))
    engine.add_request(Request("a", [0] * 6, params, seed=1))
    while engine.has_unfinished_requests():
        engine.step()
    seen = {
        draw.num_tokens - 6: draw.forbidden_token_ids
        for step in runner.steps
        for scheduled in step.scheduled
        for draw in scheduled.draws()
    }
    assert seen == {index: (5,) * (index < 12) + (7,) * (index >= 2) for index in range(30)}
    assert expected_tokens([0] * 6, 1) != [0]  # the vocabulary of one is the engine's alone


def test_speculation_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = parse_args([]).engine.scheduler
    assert scheduler.speculates_on("cpu") and not scheduler.speculates_on("cuda")
    assert parse_args(["--speculation", "ngram"]).engine.scheduler.speculates_on("cuda")
    assert parse_args(["--speculation", "none"]).engine.scheduler.speculation == "none"
    monkeypatch.setenv("FOLOVLLM_SPECULATION", "none")
    assert parse_args([]).engine.scheduler.speculation == "none"
    with pytest.raises(ConfigError, match="speculation must be one of auto, none, ngram"):
        SchedulerConfig(speculation="draft")


@pytest.mark.parametrize("accuracy", [0.0, 0.12, 0.33, 0.58, 0.81, 0.97])
def test_the_number_of_drafts_gives_the_most_tokens_for_the_time(accuracy: float) -> None:
    for max_drafts, num_certain in itertools.product(range(12), range(1, 12)):
        rates = [
            (num_certain + sum(accuracy**i for i in range(1, count + 1)))
            / (1 + 0.05 * (num_certain - 1) + (0.15 + 0.05 * count if count else 0))
            for count in range(max_drafts + 1)
        ]
        best = _best_count(accuracy, max_drafts, num_certain)
        assert best == rates.index(max(rates))
    assert _best_count(0.2, 1, 1) == 0  # neither better nor worse


def test_the_estimate_follows_a_guess_up_to_its_first_error() -> None:
    guesser = _Guesser()
    text = [1, 2, 9, 8, 7, 1, 2]
    guesser.drafts(text, 4, 1)
    assert guesser._accuracies == {2: 0.3, 3: 0.5, 4: 0.7}
    guesser.drafts([*text, 9, 8, 6, 1], 4, 1)  # guessed were 9, 8, 7, 1
    assert guesser._accuracies == {
        2: pytest.approx((0.3 * 0.8 + 0.2) * 0.8**2 + 0.2 * 0.8),
        3: 0.5,
        4: 0.7,
    }
    before = dict(guesser._accuracies)
    guesser.drafts([*text, 9, 8, 6, 1, 3], 4, 1)  # had guessed nothing
    assert guesser._accuracies == before

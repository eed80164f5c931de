"""FakeModelRunner: a model whose every token depends on every token before it, without torch.

The "KV" of a position is a hash of its token and of the KV before it, read back through the block
table. A block that is shared, copied, evicted or recomputed wrongly changes all that follows, so a
request's output equals `expected_tokens` exactly when the scheduler kept its memory straight.
"""

import threading
from collections.abc import Container, Sequence

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence, SchedulerOutput
from folovllm.errors import RequestFailedError
from folovllm.logprobs import Logprob, PositionLogprobs
from support.fakes.matcher import FakeMatcher

VOCAB_SIZE = 1000
_EMPTY = 12345

Poison = Container[tuple[int, int]]
"""The numbers of steps, and in each of sequences, whose KV becomes NaN."""


def num_scheduled_tokens(step: SchedulerOutput) -> int:
    """Tokens that a step computes."""
    return sum(part.num_scheduled_tokens for part in step.scheduled)


def _mix(state: int | None, value: int) -> int | None:
    """What is not a number stays so."""
    if state is None:
        return None
    return (state * 6364136223846793005 + value * 1442695040888963407 + 1) % 2**64


def _number(state: int | None) -> int:
    assert state is not None, "what is not a number was read"
    return state


def _draw(
    kv: int, seed: int, index: int, forbidden: Container[int] = (), vocab_size: int = VOCAB_SIZE
) -> int:
    first = (_number(_mix(_mix(kv, seed), index)) >> 33) % vocab_size
    in_order = ((first + more) % vocab_size for more in range(vocab_size))
    return next((token_id for token_id in in_order if token_id not in forbidden), first)


def _position(kv: int, token_id: int, num_tops: int) -> PositionLogprobs:
    """A made-up log-probability that depends on all tokens before, with made-up candidates."""
    candidates = [Logprob(rank, -float(rank), rank) for rank in range(1, num_tops + 1)]
    return PositionLogprobs(
        Logprob(token_id, -(_number(_mix(kv, token_id)) % 1000) / 64, 1 + kv % 5),
        tuple(candidates),
    )


def expected_logprobs(tokens: Sequence[int], start: int, num_tops: int) -> list[PositionLogprobs]:
    """What the fake model says of the tokens from `start` on, computed without any cache."""
    kv, positions = _EMPTY, []
    for token_id in tokens:
        positions.append(_position(kv, token_id, num_tops))
        kv = _number(_mix(kv, token_id))
    return positions[start:]


def expected_tokens(
    prompt: Sequence[int], num_tokens: int, *, seed: int = 0, index: int = 0
) -> list[int]:
    """What the fake model says after a prompt, computed without any cache."""
    kv = _EMPTY
    for token_id in prompt:
        kv = _number(_mix(kv, token_id))
    tokens: list[int] = []
    for _ in range(num_tokens):
        tokens.append(_draw(kv, seed, index))
        kv = _number(_mix(kv, tokens[-1]))
    return tokens


class SeenTokens:
    """What the fake model keeps of a sequence from step to step."""

    def __init__(self, num_prompt_tokens: int, token_ids: Sequence[int]) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.token_ids = list(token_ids)

    def fork(self) -> "SeenTokens":
        return SeenTokens(self.num_prompt_tokens, self.token_ids)


def _check_state(draw: ScheduledSequence) -> None:
    """Asserts that what was kept is what the sequence begins with; keeps all of it now."""
    state = draw.runner_state
    assert state is not None
    seen, history = state.token_counts, draw.token_history
    if seen is None:
        state.token_counts = SeenTokens(draw.num_prompt_tokens, history)
        return
    assert isinstance(seen, SeenTokens)
    assert seen.num_prompt_tokens == draw.num_prompt_tokens
    assert seen.token_ids == list(history[: len(seen.token_ids)])
    seen.token_ids += history[len(seen.token_ids) :]


class FakeModelRunner:
    """Keeps its KV in numbered slots, as a paged cache does.

    With a small vocabulary what it says often repeats itself.
    """

    def __init__(self, block_size: int, vocab_size: int = VOCAB_SIZE) -> None:
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._cache: dict[tuple[int, int], int | None] = {}
        self.steps: list[SchedulerOutput] = []
        self._gate = threading.Condition()
        self._hold_at: int | None = None
        self.is_held = False
        """Whether a step waits for `release`."""
        self.failure: BaseException | None = None
        """Raised by the next step."""
        self.overflow: int | None = None
        """A token's KV is NaN if its hash is a multiple of this, and so is all that reads it."""
        self.sees_chunks = True
        """Whether it notices NaN in what draws nothing."""
        self.keeps_tokens = False
        """Whether it keeps the tokens of each sequence, and asserts that they stay its own."""
        self.poison: Poison = frozenset()
        self.num_poisoned = 0
        """The sequences of steps that `poison` has met."""

    def hold(self, after: int = 0) -> None:
        """Lets so many more steps run, then holds the engine still until `release`."""
        with self._gate:
            self._hold_at = len(self.steps) + after
            self.is_held &= not self._may_run()
            self._gate.notify_all()

    def release(self) -> None:
        """Lets the engine run on."""
        with self._gate:
            self._hold_at = None
            self._gate.notify_all()

    def _may_run(self) -> bool:
        return self._hold_at is None or len(self.steps) < self._hold_at

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        with self._gate:
            self.is_held = not self._may_run()
            assert self._gate.wait_for(self._may_run, timeout=60), "held too long"
            self.is_held = False
        if self.failure is not None:
            raise self.failure
        self.steps.append(output)
        for source, target in output.block_copies:
            for offset in range(self._block_size):
                if (source, offset) in self._cache:
                    self._cache[target, offset] = self._cache[source, offset]
        # Each sequence reads before any other writes: a block that two of them write would show.
        written = [self._compute(*numbered) for numbered in enumerate(output.scheduled)]
        failures: dict[int, Exception] = {}
        sampled: list[list[int]] = []
        logprobs: dict[int, list[PositionLogprobs]] = {}
        prompt_logprobs = {}
        for index, (scheduled, slots) in enumerate(zip(output.scheduled, written, strict=True)):
            self._cache.update(slots)
            sampled.append([])
            if None in slots.values() and (
                self.sees_chunks or scheduled.sample_indexes or scheduled.prompt_logprob_positions
            ):
                failures[index] = RequestFailedError("NaN")
                continue
            num_tops = scheduled.sampling_params.logprobs
            if num_tops is not None:
                logprobs[index] = []
            for draw in scheduled.draws() if scheduled.sample_indexes else ():
                kv = _number(self._cache[self._slot(draw, draw.num_tokens - 1)])
                drawn = self._draw(kv, draw)
                sampled[index] += drawn
                if num_tops is not None:
                    logprobs[index] += [_position(kv, token_id, num_tops) for token_id in drawn]
            prompt_logprobs[index] = self._prompt_logprobs(scheduled)
        return ModelRunnerOutput(sampled, logprobs, prompt_logprobs, failures)

    def _draw(self, kv: int, draw: ScheduledSequence) -> list[int]:
        if self.keeps_tokens:
            _check_state(draw)
        forbidden = set(draw.forbidden_token_ids)
        if isinstance(draw.matcher, FakeMatcher):
            forbidden |= {each for each in range(self._vocab_size) if draw.matcher.bans(each)}
        if draw.sampling_params.alters_logits:
            known = (*draw.token_history, *draw.assumed_token_ids)
            for token_id in (draw.num_prompt_tokens, *known):
                kv = _number(_mix(kv, token_id))
        return [
            _draw(kv, draw.seed, index, forbidden, self._vocab_size)
            for index in draw.sample_indexes
        ]

    def _prompt_logprobs(self, scheduled: ScheduledSequence) -> list[PositionLogprobs]:
        return [
            _position(
                _number(self._cache[self._slot(scheduled, position)]),
                scheduled.token_history[position + 1],
                scheduled.sampling_params.prompt_logprobs or 0,
            )
            for position in scheduled.prompt_logprob_positions
        ]

    def _compute(
        self, index: int, scheduled: ScheduledSequence
    ) -> dict[tuple[int, int], int | None]:
        start = scheduled.num_computed_tokens
        kv = self._cache[self._slot(scheduled, start - 1)] if start else _EMPTY
        probe = list(scheduled.token_history) == [0]  # finds all in order
        if (len(self.steps) - 1, index) in self.poison and not probe:
            self.num_poisoned += 1
            kv = None
        slots = {}
        for position, token_id in enumerate(scheduled.token_ids, start):
            kv = _mix(kv, token_id)
            if self.overflow is not None and kv is not None and (kv >> 33) % self.overflow == 0:
                kv = None
            slots[self._slot(scheduled, position)] = kv
        return slots

    def _slot(self, scheduled: ScheduledSequence, position: int) -> tuple[int, int]:
        number, offset = divmod(position, self._block_size)
        return scheduled.block_table[number], offset

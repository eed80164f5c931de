"""SimulatedRunner: the model of `tokens` behind a paged KV cache.

The KV of a position is the state after it, read back through the block table: a block that is
shared, copied, freed or recomputed wrongly changes what follows.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from engine_service.core.outputs import (
    PENDING_TOKEN,
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
)
from folovllm.errors import RequestFailedError
from folovllm.logprobs import PositionLogprobs
from simulation.grammars import SimulatedMatcher
from simulation.tags import last_id
from simulation.tokens import EMPTY, advance, draw, logprobs_of, noise

Watch = Callable[[Sequence[ScheduledSequence]], None]
"""Is told of each step that begins."""


class SimulatedRunner:
    """Computes each step at once."""

    def __init__(
        self, block_size: int, watch: Watch, poisoned: Collection[int], numerics: str
    ) -> None:
        """A sequence whose prompt ends with one of the `poisoned` ids fails."""
        self._numerics = numerics
        self._block_size = block_size
        self._watch = watch
        self._poisoned = poisoned
        self._cache: dict[int, int] = {}  # by slot

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        self._watch(output.scheduled)
        cache, size = self._cache, self._block_size
        for source, target in output.block_copies:
            for offset in range(size):
                if source * size + offset in cache:
                    cache[target * size + offset] = cache[source * size + offset]
        # Each reads before any other writes: a block that two of them write would show.
        starts = [self._state_before(part) for part in output.scheduled]
        written = [self._write(*each) for each in zip(output.scheduled, starts, strict=True)]
        sampled: list[list[int]] = []
        logprobs: dict[int, list[PositionLogprobs]] = {}
        prompt_logprobs: dict[int, list[PositionLogprobs]] = {}
        failures: dict[int, Exception] = {}
        for index, (part, states) in enumerate(zip(output.scheduled, written, strict=True)):
            drawn: list[int] = []
            sampled.append(drawn)
            if last_id(part) in self._poisoned:
                failures[index] = RequestFailedError("NaN")
                continue
            if part.sample_indexes:
                positions = logprobs.setdefault(index, [])
                for each in part.draws() if part.draft_token_ids else (part,):
                    state = states[each.num_tokens - part.num_computed_tokens - 1]
                    self._draw(state, each, drawn, positions)
                if part.sampling_params.logprobs is None:
                    del logprobs[index]
            if part.prompt_logprob_positions:
                num_tops = part.sampling_params.prompt_logprobs or 0
                prompt_logprobs[index] = [
                    logprobs_of(
                        states[place - part.num_computed_tokens],
                        part.token_history[place + 1],
                        num_tops,
                    )
                    for place in part.prompt_logprob_positions
                ]
        return ModelRunnerOutput(sampled, logprobs, prompt_logprobs, failures)

    def _state_before(self, part: ScheduledSequence) -> int:
        start = part.num_computed_tokens
        if not start:
            return EMPTY
        block, offset = divmod(start - 1, self._block_size)
        return self._cache[part.block_table[block] * self._block_size + offset]

    def _write(self, part: ScheduledSequence, state: int) -> list[int]:
        """Writes the KV of the step's tokens; returns it."""
        cache, size, table = self._cache, self._block_size, part.block_table
        states = []
        for position, token_id in enumerate(part.token_ids, part.num_computed_tokens):
            state = advance(state, token_id)
            block, offset = divmod(position, size)
            cache[table[block] * size + offset] = state
            states.append(state)
        return states

    def _draw(
        self,
        state: int,
        part: ScheduledSequence,
        drawn: list[int],
        positions: list[PositionLogprobs],
    ) -> None:
        """Draws for each of its indexes."""
        params = part.sampling_params
        history: Sequence[int] = ()
        if params.penalises:
            history = (*part.token_history, *part.assumed_token_ids)
        prompt, output = history[: part.num_prompt_tokens], history[part.num_prompt_tokens :]
        allowed = part.matcher.allowed if isinstance(part.matcher, SimulatedMatcher) else None
        for index in part.sample_indexes:
            bits = noise(part.seed, index, part.num_tokens, self._numerics)
            banned = part.forbidden_token_ids
            token_id = draw(state, bits, params, prompt, output, banned, allowed)
            drawn.append(token_id)
            if params.logprobs is not None:
                positions.append(logprobs_of(state, token_id, params.logprobs))


class OverlappingRunner(SimulatedRunner):
    """The same, with a step ahead: what it launches may need tokens that nobody has read."""

    def __init__(
        self, block_size: int, watch: Watch, poisoned: Collection[int], numerics: str
    ) -> None:
        super().__init__(block_size, watch, poisoned, numerics)
        self._drawn: dict[int, int] = {}  # the last token of each sequence that draws alone

    def launch(self, output: SchedulerOutput) -> "LaunchedStep":
        parts = tuple(map(self._resolved, output.scheduled))
        result = self.execute(SchedulerOutput(parts, output.block_copies, output.num_tokens))
        for part, token_ids in zip(parts, result.sampled_token_ids, strict=True):
            if part.sample_indexes:  # one that fails may be computed once more
                self._drawn[part.seq_id] = token_ids[0] if token_ids else 0
        return LaunchedStep(result)

    def _resolved(self, part: ScheduledSequence) -> ScheduledSequence:
        if PENDING_TOKEN not in part.token_ids:
            return part
        return replace(part, token_ids=(self._drawn[part.seq_id],))


class LaunchedStep:
    """A step that was computed when it was launched."""

    def __init__(self, result: ModelRunnerOutput) -> None:
        self._result = result

    def result(self) -> ModelRunnerOutput:
        return self._result

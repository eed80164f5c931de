"""The values that pass between scheduler, model runner and engine.

schedule() -> SchedulerOutput ─▶ ModelRunner.execute() -> ModelRunnerOutput
    ─▶ update_from_output() -> [SequenceOutput]

With an OverlappingRunner, launch() and result() replace execute(), with schedule_ahead() between.

What is made for every sequence at every step is not frozen, since that takes five times as long.
"""

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from engine_service.core.sequence_parts.runner_state import RunnerState
from engine_service.core.token_matcher import TokenMatcher

if TYPE_CHECKING:
    from engine_service.core.request import Sequence
    from folovllm.logprobs import PositionLogprobs
    from folovllm.sampling_params import SamplingParams


PENDING_TOKEN: Final = -1
"""Represents a token that a launched step draws and that the host has not read yet."""


@dataclass(slots=True)
class ScheduledSequence:
    """The part of one sequence that a step computes.

    The KV of `token_ids` is written to positions num_computed_tokens, num_computed_tokens + 1, …;
    everything before is in the cache already, or will be once the step before has run.
    `block_table`, `token_history`, `matcher` and `runner_state` are the sequence's own and change
    afterwards: they are valid until the runner's execute() or launch() returns.
    """

    seq_id: int
    token_ids: SequenceOf[int]
    """(PENDING_TOKEN,) means the token that the step before draws for this sequence, which the
    runner keeps."""
    num_computed_tokens: int
    block_table: SequenceOf[int]
    sampling_params: "SamplingParams"
    seed: int
    sample_indexes: tuple[int, ...]
    """For each a token is drawn after the last position, by the random stream of that sequence
    index: none while the prompt is incomplete, all n when the prompt of a request is complete."""
    forbidden_token_ids: tuple[int, ...] = ()
    """Ids that must not be drawn at this step: what would end the sequence before min_tokens, and
    what would complete a bad word."""
    token_history: SequenceOf[int] = ()
    """All known tokens of prompt and output, including those that are not computed yet. A pending
    one may be missing only if none of `sampling_params` looks back."""
    num_prompt_tokens: int = 0
    """How many of them are the prompt's."""
    prompt_logprob_positions: range = range(0)
    """Positions among the scheduled ones after which the log-probability of the prompt's next token
    is wanted."""
    matcher: TokenMatcher | None = None
    """What may be drawn at this step, if the output must follow a grammar."""
    draft_token_ids: tuple[int, ...] = ()
    """Those of `token_ids`, at their end, that are only guessed (`core.spec_decode`). If there are
    any, the one sample index draws a token after the last certain one and after each draft."""
    draft_forbidden_token_ids: tuple[tuple[int, ...], ...] = ()
    """For each draft the ids that must not be drawn after it."""
    assumed_token_ids: tuple[int, ...] = ()
    """In one of `draws`: the drafts that follow token_history as if they were certain."""
    runner_state: RunnerState | None = None
    """What the runner may keep of the sequence until its next step. None keeps nothing."""

    def draws(self) -> list["ScheduledSequence"]:
        """One for each position after which tokens are drawn, as if it were the last of the step.

        In each, the drafts before that position count as certain.
        """
        if not self.draft_token_ids:
            return [self]
        num_certain = len(self.token_ids) - len(self.draft_token_ids)
        forbidden = self.forbidden_token_ids, *self.draft_forbidden_token_ids
        return [
            replace(
                self,
                token_ids=self.token_ids[: num_certain + count],
                forbidden_token_ids=forbidden[count],
                assumed_token_ids=self.draft_token_ids[:count],
                draft_token_ids=(),
                draft_forbidden_token_ids=(),
            )
            for count in range(len(forbidden))
        ]

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens that the step computes."""
        return len(self.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens whose KV the cache holds after the step; also the position of a drawn token."""
        return self.num_computed_tokens + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step: block copies first, in order, then the scheduled sequences as one batch."""

    scheduled: tuple[ScheduledSequence, ...]
    block_copies: tuple[tuple[int, int], ...] = ()
    """(source, target) block ids, made by forks."""
    num_tokens: int = 0
    """Tokens that it computes."""


@dataclass(frozen=True, slots=True)
class ModelRunnerOutput:
    """The result of a step."""

    sampled_token_ids: SequenceOf[SequenceOf[int]]
    """For each scheduled sequence a token id for each of its sample_indexes; of one with drafts, a
    token id for each of its draws."""
    logprobs: Mapping[int, SequenceOf["PositionLogprobs"]] = field(default_factory=dict)
    """By the index of a scheduled sequence that asks for them: one for each token drawn."""
    prompt_logprobs: Mapping[int, SequenceOf["PositionLogprobs"]] = field(default_factory=dict)
    """By the same index: one for each of its prompt_logprob_positions."""
    failures: Mapping[int, Exception] = field(default_factory=dict)
    """By the same index: why a sequence has none of these. Its KV may be anything."""


class ModelRunner(Protocol):
    """Computes one step. A fake one makes the scheduler and the services testable without torch."""

    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """Runs the batch, writes its KV and draws the requested tokens."""
        ...


class LaunchedStep(Protocol):
    """A step that the device computes, or will compute after those before."""

    def result(self) -> ModelRunnerOutput:
        """Waits until the step's tokens are on the host. Called once, in the order of launch."""
        ...


@runtime_checkable
class OverlappingRunner(ModelRunner, Protocol):
    """One that computes a step while the host plans and launches the next.

    Steps take effect in the order of their launch, so that each finds the KV that those before
    wrote, and may write to blocks that those before still read.
    """

    def launch(self, output: SchedulerOutput) -> LaunchedStep:
        """Queues a step on the device and returns; nothing of `output` is read afterwards."""
        ...


@dataclass(slots=True)
class SequenceOutput:
    """What one step changed for one sequence."""

    seq: "Sequence"
    token_ids: tuple[int, ...] = ()
    finished: bool = False
    """Whether it ended; its status says why."""
    stop_token_id: int | None = None
    """The stop token that ended it; None after the end-of-sequence token."""
    output_complete: bool = False
    """Whether it ended because its grammar was complete."""
    logprobs: tuple["PositionLogprobs", ...] = ()
    """One for each of token_ids, if the request asks for them."""

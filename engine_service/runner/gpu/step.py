"""GpuStep: a launched step, and its result once it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence
from engine_service.runner.device_copy import Download
from folovllm.errors import ServerError
from folovllm.logprobs import PositionLogprobs

Logprobs = Mapping[int, Sequence[PositionLogprobs]]


@dataclass(frozen=True, slots=True)
class GpuStep:
    """See LaunchedStep."""

    scheduled: Sequence[ScheduledSequence]
    drawing: Sequence[int]
    """The index of the sequence that has drawn each of the tokens."""
    tokens: Download
    logprobs: Logprobs
    prompt_logprobs: Logprobs

    def result(self) -> ModelRunnerOutput:
        """See LaunchedStep. Raises ServerError if a row's logits are not finite."""
        drawn: list[list[int]] = [[] for _ in self.scheduled]
        for i, token_id in zip(self.drawing, self.tokens.wait(), strict=True):
            if token_id < 0:
                sequence = self.scheduled[i]
                raise ServerError(
                    f"the model's logits for sequence {sequence.seq_id} at position "
                    f"{sequence.num_tokens} are not finite, so no token can be drawn"
                )
            drawn[i].append(token_id)
        return ModelRunnerOutput(drawn, self.logprobs, self.prompt_logprobs)

"""GpuStep: a launched step, and its result once it is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence
from engine_service.runner.device_copy import Download
from engine_service.runner.sampling.not_finite import not_finite
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
    failures: Mapping[int, Exception]
    """Those that are known before the tokens are."""

    def result(self) -> ModelRunnerOutput:
        """See LaunchedStep. A row whose logits are not finite has drawn -1."""
        drawn: list[list[int]] = [[] for _ in self.scheduled]
        failures = dict(self.failures)
        for i, token_id in zip(self.drawing, self.tokens.wait(), strict=True):
            if token_id < 0:
                failures.setdefault(i, not_finite(self.scheduled[i].num_tokens))
            drawn[i].append(token_id)
        return ModelRunnerOutput(drawn, self.logprobs, self.prompt_logprobs, failures)

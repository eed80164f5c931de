"""GpuStep: a launched step, and its result once it is done."""

from collections.abc import Mapping, Sequence

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence
from engine_service.runner.device_copy import Download
from folovllm.errors import ServerError
from folovllm.outputs import PositionLogprobs

Logprobs = Mapping[int, Sequence[PositionLogprobs]]


class GpuStep:
    """See LaunchedStep."""

    def __init__(
        self,
        scheduled: Sequence[ScheduledSequence],
        drawing: Sequence[int],
        tokens: Download,
        logprobs: Logprobs,
        prompt: Logprobs,
    ) -> None:
        """`drawing` are the indexes of the sequences that have drawn each of the tokens."""
        self._scheduled, self._drawing, self._tokens = scheduled, drawing, tokens
        self._logprobs, self._prompt = logprobs, prompt

    def result(self) -> ModelRunnerOutput:
        """See LaunchedStep. Raises ServerError if a row's logits are not finite."""
        drawn: list[list[int]] = [[] for _ in self._scheduled]
        for i, token_id in zip(self._drawing, self._tokens.wait(), strict=True):
            if token_id < 0:
                sequence = self._scheduled[i]
                raise ServerError(
                    f"the model's logits for sequence {sequence.seq_id} at position "
                    f"{sequence.num_tokens} are not finite, so no token can be drawn"
                )
            drawn[i].append(token_id)
        return ModelRunnerOutput(drawn, self._logprobs, self._prompt)

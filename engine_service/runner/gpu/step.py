"""GpuStep: a step that was launched, and what it brings once it is done."""

from collections.abc import Mapping, Sequence

from engine_service.core.outputs import ModelRunnerOutput, ScheduledSequence
from engine_service.runner.device_copy import Reading
from folovllm.errors import ServerError
from folovllm.outputs import PositionLogprobs

Logprobs = Mapping[int, Sequence[PositionLogprobs]]


class GpuStep:
    """See LaunchedStep."""

    def __init__(
        self,
        scheduled: Sequence[ScheduledSequence],
        places: Sequence[int],
        reading: Reading,
        logprobs: Logprobs,
        prompt: Logprobs,
    ) -> None:
        """`places` says which of the scheduled sequences has drawn each of the tokens read."""
        self._scheduled, self._places = scheduled, places
        self._reading = reading
        self._logprobs, self._prompt = logprobs, prompt

    def result(self) -> ModelRunnerOutput:
        """See LaunchedStep. Raises ServerError where a row's logits are not finite."""
        drawn: list[list[int]] = [[] for _ in self._scheduled]
        for place, token_id in zip(self._places, self._reading.numbers(), strict=True):
            if token_id < 0:
                sequence = self._scheduled[place]
                raise ServerError(
                    f"the model's logits for sequence {sequence.seq_id} at position "
                    f"{sequence.num_tokens} are not finite, so no token can be drawn"
                )
            drawn[place].append(token_id)
        return ModelRunnerOutput(drawn, self._logprobs, self._prompt)

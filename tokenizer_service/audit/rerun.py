"""What has ended as a request to another engine, and how its outputs compare while they come."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from folovllm.records.comparison import first_difference, repeated_params
from folovllm.records.record import RecordedOutput
from folovllm.v1 import engine_service_pb2
from tokenizer_service.audit.finished import Finished, ending_of
from tokenizer_service.engines.migration.progress import Progress

Command = engine_service_pb2.SessionCommand

LOWEST_PRIORITY = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first position of an output, from 0, where two engines disagree."""

    index: int
    position: int
    is_logprob: bool
    """Whether they agree on the token, and only its log-probability differs."""


def rerun_command(finished: Finished, name: str) -> Command:
    """The request again, after everything else that waits."""
    command = Command()
    request = command.generate
    request.request_id = name
    request.prompt_token_ids.extend(finished.prompt_token_ids)
    request.prompt_token_ids.extend(finished.parent_token_ids)
    params = repeated_params(finished.info.sampling_params, finished.recorded_outputs())
    request.sampling_params.CopyFrom(params)
    request.priority = LOWEST_PRIORITY
    request.cache_salt = finished.cache_salt
    if finished.parent_token_ids:
        request.continued.num_parent_output_tokens = len(finished.parent_token_ids)
        request.continued.outputs.add(index=0)
    return command


class Agreement:
    """Compares what comes with what had come; each token once."""

    def __init__(self, finished: Finished) -> None:
        self._recorded = {each.index: each for each in finished.recorded_outputs()}
        self._num_compared = dict.fromkeys(self._recorded, 0)

    def check(self, index: int, progress: Progress) -> Mismatch | None:
        """Where an output, as far as it has come, differs; None if nowhere so far."""
        recorded = self._recorded.get(index)
        if recorded is None:
            return None
        start = self._num_compared[index]
        self._num_compared[index] = len(progress.token_ids)
        return _mismatch(recorded, progress, start)


def _mismatch(recorded: RecordedOutput, progress: Progress, start: int) -> Mismatch | None:
    """The same, where the first `start` tokens are known to agree."""
    rest = RecordedOutput(
        recorded.index, recorded.token_ids[start:], recorded.logprobs[start:], recorded.ending
    )
    difference = first_difference(rest, progress.token_ids[start:], ending_of(progress))
    common = len(progress.token_ids) if difference is None else start + difference.position
    common = min(common, len(recorded.token_ids))
    position = _first_other_bits(recorded.logprobs, progress.logprobs, start, common)
    if position < common:
        return Mismatch(recorded.index, position, is_logprob=True)
    return None if difference is None else Mismatch(recorded.index, common, is_logprob=False)


def _first_other_bits(one: Sequence[float], other: Sequence[float], start: int, end: int) -> int:
    """The first position where log-probabilities differ, or `end`; so too if there are none."""
    if not one or not other:
        return end
    pairs = zip(_bits(one[start:end]), _bits(other[start:end]), strict=True)
    return next((start + place for place, (a, b) in enumerate(pairs) if a != b), end)


def _bits(values: Sequence[float]) -> "array[int]":
    return array("I", array("f", values).tobytes())

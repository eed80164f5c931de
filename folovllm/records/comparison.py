"""How an output that was computed again differs from the recorded one, and how to compute it."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from folovllm.records.record import Ending, RecordedOutput
from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position of an output, from 0, where it is not the recorded one.

    An id is None where the output had ended; then the endings say how.
    """

    index: int
    position: int
    recorded_id: int | None
    found_id: int | None
    recorded_ending: Ending
    found_ending: Ending | None
    """None while it runs."""


def first_difference(
    recorded: RecordedOutput, token_ids: Sequence[int], ending: Ending | None
) -> Difference | None:
    """Where an output, which may still run, differs from the recorded one; None if nowhere so far.

    One that something else than its tokens has ended is compared as far as it goes.
    """
    common = min(len(recorded.token_ids), len(token_ids))
    position = _first_unequal(recorded.token_ids, token_ids, common)
    if position == common:
        if ending is None and common == len(token_ids):
            return None
        has_all = common == len(recorded.token_ids)
        if has_all and not recorded.ending.is_due:
            return None
        if has_all and common == len(token_ids) and recorded.ending is ending:
            return None
    return Difference(
        recorded.index,
        position,
        recorded.token_ids[position] if position < len(recorded.token_ids) else None,
        token_ids[position] if position < len(token_ids) else None,
        recorded.ending,
        ending,
    )


def repeated_params(
    sampling_params: types_pb2.SamplingParams, outputs: Iterable[RecordedOutput]
) -> types_pb2.SamplingParams:
    """The parameters with which the outputs come again, and little more than these.

    Whoever computes them again needs no text: bad words are there as ids, and stop strings have
    ended what they ended.
    """
    params = types_pb2.SamplingParams()
    params.CopyFrom(sampling_params)
    for name in ("stop", "bad_words", "prompt_logprobs"):
        params.ClearField(name)
    longest = max(len(output.token_ids) for output in outputs)
    params.max_tokens = min(params.max_tokens, max(1, longest, params.min_tokens))
    return params


def largest_logprob_difference(
    recorded: RecordedOutput, logprobs: Sequence[float], num_tokens: int
) -> float | None:
    """In nats, over the first `num_tokens`, as 32-bit floats; None if not both have any."""
    pairs = zip(recorded.logprobs[:num_tokens], array("f", logprobs[:num_tokens]), strict=False)
    return max((abs(one - other) for one, other in pairs), default=None)


def _first_unequal(one: Sequence[int], other: Sequence[int], common: int) -> int:
    """The first of `common` positions where two lists differ, or `common`."""
    if array("I", one[:common]) == array("I", other[:common]):
        return common
    return next(position for position in range(common) if one[position] != other[position])

"""Pauses: how long the streams of a hurt engine said nothing, over the prefill that was due.

What has moved is computed again from its prompt and output. How long that takes is measured where
nothing happens: a request of one token, alone, of several lengths; between them it is a line.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chaos.exact.stream import Received, parts
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_LENGTHS = (32, 256, 768)
_REPEATS = 5
_JUST_SENT = 0.1
"""Seconds for what was on its way when its engine was hurt."""
_UNKNOWN_LENGTH = 60
"""Of a prompt of which no info has come; most are shorter."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """How long a prompt takes, in seconds."""

    fixed: float
    each_token: float

    def of(self, lengths: Sequence[int]) -> float:
        """One after the other."""
        return self.fixed * len(lengths) + self.each_token * sum(lengths)


NO_PREFILL = Prefill(0.0, 0.0)


@dataclass(frozen=True, slots=True, order=True)
class Pause:
    """One of a stream, with the prefill that was due, in seconds."""

    seconds: float
    due: float
    stream: str

    @property
    def over(self) -> float:
        """What is over the prefill."""
        return self.seconds - self.due

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s, {self.due:.3f} s due: {self.stream}"


async def measure_prefill(engine: Any) -> Prefill:
    """Of the engine of a stub, which does nothing else."""
    seconds = []
    for length in _LENGTHS:
        times = []
        for repeat in range(_REPEATS):
            ids = [(repeat * 7919 + place * 31) % 1500 + 300 for place in range(length)]
            request = types_pb2.Request(prompt_token_ids=ids, cache_salt=f"{length} {repeat}")
            request.sampling_params.max_tokens = 1
            began = time.monotonic()
            async for _ in engine.Generate(request, timeout=60):
                pass
            times.append(time.monotonic() - began)
        seconds.append(min(times))  # whatever else the machine does only adds to it
    each = max((seconds[-1] - seconds[0]) / (_LENGTHS[-1] - _LENGTHS[0]), 0.0)
    return Prefill(max(seconds[0] - each * _LENGTHS[0], 0.0), each)


def lengths_of(received: Received) -> list[int]:
    """Tokens of prompt and output of each continuation that has not ended."""
    counts = dict.fromkeys(range(received.ask.n if received.method != "Fork" else 1), 0)
    prompt, ended = _UNKNOWN_LENGTH, set()
    for message in received.messages:
        for part in parts(message):
            counts[part.index] = counts.get(part.index, 0) + len(part.token_ids)
            if part.HasField("info"):
                prompt = part.info.prompt_tokens or prompt
            if _is_end(part):
                ended.add(part.index)
    return [prompt + count for index, count in counts.items() if index not in ended]


def pause(received: Received, moment: float) -> float | None:
    """The longest time without a token, of any index, that began about a moment.

    None where nothing has come after it, or the pieces of an answer do not come with their tokens.
    """
    if received.method not in ("Generate", "Fork") or not received.num_moves:
        return None
    last: dict[int, float] = {}
    longest = None
    for message, at in zip(received.messages, received.times, strict=True):
        if not message.token_ids:
            continue
        before = max(last.get(message.index, moment), moment)
        if at > moment and before <= moment + _JUST_SENT:
            longest = max(longest or 0.0, at - before)
        last[message.index] = at
    return longest


def pause_note(pauses: Sequence[Pause]) -> str:
    """How they are distributed, in milliseconds: they, the prefills, and what is over these."""
    columns = {
        "pause": [each.seconds for each in pauses],
        "prefill": [each.due for each in pauses],
        "over it": [each.over for each in pauses],
    }
    return "; ".join(f"{name} {_quantiles(values)}" for name, values in columns.items()) + " ms"


def _quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return " ".join(
        f"{name} {ordered[min(int(place * len(ordered)), len(ordered) - 1)] * 1000:.0f}"
        for name, place in places.items()
    )


def _is_end(part: Any) -> bool:
    if isinstance(part, messages.ChatOutput):
        return part.HasField("finish")
    return bool(part.finish_reason)

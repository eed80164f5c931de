"""Scenario: everything that one run is made of, as plain data that can be made smaller.

`scenario_of(seed, …)` draws one. What a request or a fault does depends on its own fields alone, so
taking others away changes nothing about it.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from simulation.engine_host import MAX_MODEL_LEN, EngineSetting
from simulation.tokens import THINK_END

KILLER, POISON = 254, 255
"""Last ids of prompts: computing one ends the engine's process, the other fails the request."""


@dataclass(frozen=True)
class ForkSpec:
    """Branches of a request's index, asked for once so many messages of it have come."""

    after: int
    index: int
    branches: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RequestSpec:
    """One request of a caller. Seconds are from the beginning of the run."""

    number: int
    at: float
    front_end: int
    kind: str
    """generate, chat or score."""
    prompt: tuple[int, ...]
    params: dict[str, Any]
    """Fields of SamplingParams."""
    priority: int = 0
    salt: str = ""
    pause: float = 0.0
    """Seconds that the caller takes for each message."""
    leaves: float | None = None
    """Seconds after which the caller leaves."""
    fork: ForkSpec | None = None
    thinks: bool = False
    """Of a chat: whether its prompt has begun to reason."""
    thinking_budget: int | None = None
    has_tool: bool = False


@dataclass(frozen=True)
class FaultSpec:
    """What goes wrong, when, for how long, and where."""

    at: float
    kind: str
    seconds: float = 0.0
    engine: int = 0
    front_end: int = 0
    loses: bool = True


@dataclass(frozen=True)
class Scenario:
    """One run."""

    seed: int
    engines: tuple[EngineSetting, ...]
    num_front_ends: int
    max_delay: float
    requests: tuple[RequestSpec, ...]
    faults: tuple[FaultSpec, ...] = ()
    migrate: str = "exact"


FAULTS = {
    "kill": 5,
    "engine failure": 2,
    "hang": 3,
    "partition": 3,
    "drop": 3,
    "drain": 4,
    "front end stands still": 1,
    "clock jump": 1,
    "calls break": 2,
    "front end dies": 2,
}
"""With how often each is drawn."""


@dataclass
class Shape:
    """How large the scenarios of a run are."""

    num_requests: int = 120
    faults: dict[str, int] = field(default_factory=lambda: dict(FAULTS))
    max_bursts: int = 4
    durations: tuple[float, ...] = (0.3, 1.5, 3.0, 8.0, 14.0)
    """Of faults, in seconds."""

    @classmethod
    def small(cls) -> "Shape":
        """That of many short runs."""
        return cls(6, max_bursts=1, durations=(0.3, 3.0))


def scenario_of(seed: int, shape: Shape) -> Scenario:
    """The scenario of a seed."""
    rng = Random(seed)
    num_engines = rng.choice((1, 2, 2, 3, 3, 3, 3, 4, 4, 5))
    num_front_ends = rng.choice((1, 1, 2))
    base = rng.choice((0.004, 0.01, 0.03))
    num_blocks = rng.choice((28, 56, 96))
    refuses = rng.random() < 0.15
    engines = tuple(_setting(rng, base, num_blocks, refuses) for _ in range(num_engines))
    if rng.random() < 0.12:
        engines = (replace(engines[0], numerics="another"), *engines[1:])
    rate = rng.uniform(0.4, 1.6) * sum(each.max_num_seqs for each in engines) / base / 14
    requests, bursts, now = [], [1.0], 1.0
    burst = -(-shape.num_requests // rng.randint(1, shape.max_bursts))
    for number in range(shape.num_requests):
        now += rng.expovariate(rate)
        if number and number % burst == 0:
            now += rng.uniform(1.0, 6.0)  # in which most of what has failed comes back
            bursts.append(now)
        requests.append(_request(rng, number, now, num_front_ends))
    duration = burst / rate + 0.4
    spans = [(each, each + duration) for each in bursts]
    faults = _faults(rng, spans, (num_engines, num_front_ends), shape)
    delay = rng.choice((0.0, 0.0, 0.001, 0.02))
    return Scenario(seed, engines, num_front_ends, delay, tuple(requests), faults)


def _setting(rng: Random, base: float, num_blocks: int, refuses: bool) -> EngineSetting:
    overlaps = rng.random() < 0.3
    seqs = rng.choice((4, 8, 16))
    return EngineSetting(
        num_blocks=num_blocks,
        max_num_seqs=seqs,
        max_num_batched_tokens=rng.choice((24, 48, 96)),
        prefix_caching=rng.random() < 0.8,
        speculation="ngram" if not overlaps and rng.random() < 0.4 else "none",
        overlaps=overlaps,
        target_queue_seconds=None if refuses else 600.0,
        step_seconds=base * rng.uniform(0.7, 1.5),
        grammar_seconds=rng.choice((0.0, 0.05, 0.3)),
    )


_PREFIXES = tuple(tuple(b"abcdefghijklmnopqrstuvwx"[start : start + 12]) for start in (0, 4, 9))


def _request(rng: Random, number: int, at: float, num_front_ends: int) -> RequestSpec:
    body = tuple(rng.choices(range(97, 117), k=rng.choice((1, 2, 5, 9, 20))))
    prefix = rng.choice(_PREFIXES) if rng.random() < 0.5 else ()
    kind = rng.choices(("generate", "chat", "score"), (80, 17, 3))[0]
    last = 33 + rng.randrange(60)
    if kind == "generate" and rng.random() < 0.0015:
        last = rng.choice((KILLER, POISON))
    prompt = (*prefix, *body, 33 + number // 90 % 90, 33 + number % 90, last)
    params = _params(rng, MAX_MODEL_LEN - len(prompt) - 1, kind)
    fork = None
    if kind == "generate" and params.get("max_tokens", 16) > 6 and rng.random() < 0.08:
        fork = _fork(rng, params, MAX_MODEL_LEN - len(prompt) - params["max_tokens"] - 1)
    return RequestSpec(
        number,
        at,
        rng.randrange(num_front_ends),
        kind,
        prompt,
        params,
        priority=rng.choice((0, 0, 0, -1, 2)),
        salt=rng.choice(("", "", "", "s")),
        pause=rng.choice((0.0,) * 8 + (0.02, 0.2)),
        leaves=rng.choice((0.05, 0.3, 1.0, 3.0)) if rng.random() < 0.05 else None,
        fork=fork,
        **(_chat(rng, params) if kind == "chat" else {}),
    )


def _chat(rng: Random, params: dict[str, Any]) -> dict[str, Any]:
    budget = rng.randrange(1, 9) if rng.random() < 0.3 else None
    return {
        "thinks": budget is not None or "regex" in params or rng.random() < 0.5,
        "thinking_budget": budget,
        "has_tool": rng.random() < 0.4,
    }


def _fork(rng: Random, parent: dict[str, Any], room: int) -> ForkSpec:
    branches = []
    for _ in range(rng.choice((1, 2, 3))):
        branch = _params(rng, max(1, room), "fork")
        branches.append(branch)
    return ForkSpec(rng.randrange(1, 6), rng.randrange(parent.get("n", 1)), tuple(branches))


def _params(rng: Random, room: int, kind: str) -> dict[str, Any]:
    """Most are plain; the rest has a few things that are not."""
    most = min(room, rng.choices((3, 12, 24, 48), (1, 4, 4, 1))[0])
    params: dict[str, Any] = {"max_tokens": rng.randrange(1 + most // 2, most + 1)}
    params["temperature"] = rng.choice((0.0, 0.5, 1.0, 1.0))
    if rng.random() < 0.6:
        params["seed"] = rng.choice((rng.randrange(100), rng.getrandbits(63)))
    if kind != "fork" and rng.random() < 0.12:
        params["n"] = rng.choice((2, 3, 4))
    if rng.random() < 0.45:
        return params
    for add in rng.sample(_EXTRAS, rng.choice((1, 1, 2, 3))):
        add(rng, params, kind)
    return params


def _penalties(rng: Random, params: dict[str, Any], kind: str) -> None:
    params[rng.choice(("presence_penalty", "frequency_penalty"))] = rng.choice((-1.5, 0.7, 2.0))
    if rng.random() < 0.5:
        params["repetition_penalty"] = rng.choice((0.8, 1.3, 2.0))


def _bias(rng: Random, params: dict[str, Any], kind: str) -> None:
    if rng.random() < 0.5:
        params["logit_bias"] = {rng.randrange(97, 113): rng.choice((-9.0, 4.0)) for _ in range(2)}
    else:
        params["allowed_token_ids"] = rng.sample(range(97, 113), 6)


def _bad_words(rng: Random, params: dict[str, Any], kind: str) -> None:
    words = [[rng.randrange(97, 105) for _ in range(rng.choice((1, 2, 2, 3)))] for _ in range(3)]
    params["bad_words_token_ids"] = words


def _logprobs(rng: Random, params: dict[str, Any], kind: str) -> None:
    params["logprobs"] = rng.choice((0, 0, 2))


def _prompt_logprobs(rng: Random, params: dict[str, Any], kind: str) -> None:
    if kind != "fork":
        params["prompt_logprobs"] = rng.choice((0, 1))


def _min_tokens(rng: Random, params: dict[str, Any], kind: str) -> None:
    params["min_tokens"] = rng.randrange(params["max_tokens"] + 1)


def _stop_ids(rng: Random, params: dict[str, Any], kind: str) -> None:
    params["stop_token_ids"] = rng.sample(range(100, 113), 2)
    params["include_stop_str_in_output"] = rng.random() < 0.5


def _stop(rng: Random, params: dict[str, Any], kind: str) -> None:
    texts = ["".join(rng.choices("abcdefgh", k=rng.choice((2, 2, 3)))) for _ in range(3)]
    params["stop"] = texts
    params["include_stop_str_in_output"] = rng.random() < 0.5


def _grammar(rng: Random, params: dict[str, Any], kind: str) -> None:
    if kind == "chat" or rng.random() < 0.7:
        params["regex"] = f"{rng.randrange(2, params['max_tokens'] + 3)}:{rng.randrange(10**6)}"
    if kind != "chat" and rng.random() < 0.4:
        reasoning = {"end_token_id": THINK_END}
        if rng.random() < 0.7:
            reasoning["max_tokens"] = rng.randrange(8)
        params["reasoning"] = reasoning


def _ignore_eos(rng: Random, params: dict[str, Any], kind: str) -> None:
    params["ignore_eos"] = True


_EXTRAS = [
    _penalties,
    _penalties,
    _bias,
    _bad_words,
    _logprobs,
    _prompt_logprobs,
    _min_tokens,
    _stop_ids,
    _stop,
    _stop,
    _grammar,
    _grammar,
    _ignore_eos,
]


def _faults(
    rng: Random, bursts: list[tuple[float, float]], sizes: tuple[int, int], shape: Shape
) -> tuple[FaultSpec, ...]:
    """Some while requests run; `sizes` are the numbers of engines and front ends."""
    names, weights = list(shape.faults), list(shape.faults.values())
    if not names:
        return ()
    faults = [
        FaultSpec(
            at=rng.uniform(*rng.choice(bursts)),
            kind=rng.choices(names, weights)[0],
            seconds=rng.choice(shape.durations),
            engine=rng.randrange(sizes[0]),
            front_end=rng.randrange(sizes[1]),
            loses=rng.random() < 0.5,
        )
        for _ in range(rng.choice((0, 1, 2, 3, 4, 6)))
    ]
    return tuple(sorted(faults, key=lambda fault: fault.at))

"""What is asked: requests of every kind whose answer is a function of the request and its seed.

Ask `number` of a seed is always the same, whatever was asked before it.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

Method = Literal["Generate", "GenerateOnce", "Chat", "ChatOnce"]
Message = messages.GenerateRequest | messages.ChatRequest
_WORDS = ("the", "fox", "and", "owl", "went", "down", "to", "a", "river", "where", "Anna", "sold")
_QUESTIONS = (
    "What is {} + {}?",
    "Anna has {} apples and buys {} more. How many are there?",
    "Write as JSON: Anna is {}, and Tom is {}.",
    "Tell me a story of {} foxes and {} owls.",
)
_WEATHER = '{"type": "object", "properties": {"city": {"type": "string", "maxLength": 60}}, ' + (
    '"required": ["city"], "additionalProperties": false}'
)
_SUM = '{"type": "object", "properties": {"numbers": {"type": "array", "minItems": 6, ' + (
    '"maxItems": 30, "items": {"type": "integer"}}}, "required": ["numbers"], '
    '"additionalProperties": false}'
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 8, "maxLength": 60},
        "ages": {"type": "array", "items": {"type": "integer"}, "minItems": 10, "maxItems": 30},
        "kind": {"enum": ["fox", "owl"]},
    },
    "required": ["name", "ages", "kind"],
    "additionalProperties": False,
}
_REGEX = "([a-z]{2,9} ){12,40}[0-9]{3,12}(\\.[0-9]{2,8})?"


@dataclass(frozen=True, slots=True)
class Branching:
    """A fork of a running request, as soon as so many of its messages have come."""

    after: int
    branches: tuple[types_pb2.SamplingParams, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request without a name. `num_tokens` is how many it may have for each index."""

    number: int
    kind: str
    method: Method
    message: Message
    num_tokens: int
    fork: Branching | None = None

    def named(self, name: str, seed: int | None = None) -> Message:
        """The message under a request_id, perhaps with another seed."""
        message = type(self.message)()
        message.CopyFrom(self.message)  # type: ignore[arg-type]
        message.request_id = name
        if seed is not None:
            message.sampling_params.seed = seed
        return message

    @property
    def n(self) -> int:
        """Its continuations."""
        params = self.message.sampling_params
        return params.n if params.HasField("n") else 1


@dataclass(slots=True)
class _Draft:
    """What the ask of a number is made with; `scale` makes outputs longer."""

    rng: random.Random
    number: int
    scale: float
    fields: dict[str, Any] = field(default_factory=dict)

    def generate(
        self, kind: str, *, once: bool = False, fork: Branching | None = None, **fields: Any
    ) -> Ask:
        """Of a text, or of ids, some of which other asks begin with too."""
        params = self._params(fields)
        request = messages.GenerateRequest(sampling_params=params, return_prompt_token_ids=True)
        if self.rng.random() < 0.5:
            request.text = self._text()
        else:
            request.token_ids.ids.extend(self._ids())
        method: Method = "GenerateOnce" if once else "Generate"
        return Ask(self.number, kind, method, request, params.max_tokens, fork)

    def chat(self, kind: str, *, once: bool = False, request: Any = None, **fields: Any) -> Ask:
        """A conversation of one or three turns."""
        params = self._params(fields)
        request = request or messages.ChatRequest()
        request.sampling_params.CopyFrom(params)
        if self.rng.random() < 0.3:
            request.messages.add(role=messages.ROLE_USER, content=self._question())
            request.messages.add(role=messages.ROLE_ASSISTANT, content=self._text())
        request.messages.add(role=messages.ROLE_USER, content=self._question())
        return Ask(self.number, kind, "ChatOnce" if once else "Chat", request, params.max_tokens)

    def length(self) -> int:
        """How many tokens an output may have."""
        return int(self.rng.randint(24, 160) * self.scale)

    def seed(self) -> int:
        """Any that the contract has room for."""
        return self.rng.getrandbits(64)

    def sampled(self) -> dict[str, Any]:
        """Seeded, in one of the ways to choose among tokens."""
        ways: tuple[dict[str, Any], ...] = (
            {},
            {"top_p": 0.9},
            {"top_k": 20},
            {"min_p": 0.02},
            {"top_p": 0.95, "top_k": 50},
        )
        temperature = self.rng.choice((0.7, 1.0, 1.3))
        return {"temperature": temperature, "seed": self.seed()} | self.rng.choice(ways)

    def _params(self, fields: dict[str, Any]) -> types_pb2.SamplingParams:
        values = {"max_tokens": self.length(), "ignore_eos": True} | fields
        return types_pb2.SamplingParams(**values)

    def _text(self) -> str:
        return " ".join(self.rng.choices(_WORDS, k=self.rng.randint(3, 40))).capitalize()

    def _question(self) -> str:
        numbers = (self.rng.randint(1, 99), self.rng.randint(1, 99))
        return self.rng.choice(_QUESTIONS).format(*numbers)

    def _ids(self) -> list[int]:
        rng = self.rng
        if rng.random() < 0.3:  # a beginning that other requests have too
            shared = random.Random(rng.randrange(4))
            return [*_random_ids(shared, 100), *_random_ids(rng, rng.randint(1, 40))]
        return _random_ids(rng, rng.choice((rng.randint(1, 60), rng.randint(60, 500))))


def _random_ids(rng: random.Random, number: int) -> list[int]:
    return [rng.randrange(300, 1900) for _ in range(number)]


def _greedy(draft: _Draft) -> Ask:
    return draft.generate("greedy", temperature=0.0)


def _seeded(draft: _Draft) -> Ask:
    return draft.generate("seeded", **draft.sampled())


def _unseeded(draft: _Draft) -> Ask:
    fields = draft.sampled()
    del fields["seed"]
    return draft.generate("unseeded", **fields)


def _penalties(draft: _Draft) -> Ask:
    rng = draft.rng
    fields = draft.sampled() if rng.random() < 0.6 else {"temperature": 0.0}
    bias = {rng.randrange(300, 1900): rng.uniform(-5, 5) for _ in range(8)}
    return draft.generate(
        "penalties",
        presence_penalty=rng.uniform(-1, 2),
        frequency_penalty=rng.uniform(-0.5, 2),
        repetition_penalty=rng.uniform(0.9, 1.8),
        logit_bias=bias,
        bad_words=["the", "river"] if rng.random() < 0.5 else [],
        min_tokens=rng.randint(0, 24),
        stop_token_ids=[*range(300, 330)] if rng.random() < 0.5 else [],
        **fields,
    )


def _several(draft: _Draft) -> Ask:
    rng = draft.rng
    fields = draft.sampled()
    if rng.random() < 0.4:
        del fields["seed"]
    if rng.random() < 0.3:
        fields |= {"logprobs": 2, "ignore_eos": False}
    return draft.generate("n", n=rng.choice((2, 3, 4, 4)), **fields)


def _schema(draft: _Draft) -> Ask:
    fields = draft.sampled() | {"max_tokens": 250}
    return draft.generate("json_schema", json_schema=json.dumps(_SCHEMA), **fields)


def _regex(draft: _Draft) -> Ask:
    fields = draft.sampled() | {"max_tokens": 250}
    if draft.rng.random() < 0.3:
        fields |= {"n": 2, "logprobs": 1}
    return draft.generate("regex", regex=_REGEX, **fields)


def _logprobs(draft: _Draft) -> Ask:
    rng = draft.rng
    fields = draft.sampled() if rng.random() < 0.6 else {"temperature": 0.0}
    if rng.random() < 0.5:
        fields["prompt_logprobs"] = rng.randint(0, 3)
    return draft.generate("logprobs", logprobs=rng.randint(0, 5), **fields)


def _repetitive(draft: _Draft) -> Ask:
    """What speculation guesses well."""
    rng = draft.rng
    ask = draft.generate("repetitive", temperature=0.0, logprobs=1)
    assert isinstance(ask.message, messages.GenerateRequest)
    ask.message.token_ids.ids[:] = _random_ids(rng, 12) * rng.randint(3, 12)
    return ask


def _stops(draft: _Draft) -> Ask:
    rng = draft.rng
    fields = draft.sampled() | {"max_tokens": int(160 * draft.scale)}
    if rng.random() < 0.5:
        fields["logprobs"] = 1
    return draft.generate(
        "stop",
        stop=rng.sample(("zz", " he", "ed a", ".", "q", "and the"), k=2),
        min_tokens=rng.randint(8, 60),
        include_stop_str_in_output=rng.random() < 0.3,
        **fields,
    )


def _fork(draft: _Draft) -> Ask:
    rng = draft.rng
    branches = []
    for _ in range(rng.randint(1, 3)):
        fields = draft.sampled() if rng.random() < 0.7 else {"temperature": 0.0}
        if rng.random() < 0.4:
            fields.pop("seed", None)
        if rng.random() < 0.4:
            fields["repetition_penalty"] = rng.uniform(0.9, 1.5)
        fields |= {"max_tokens": draft.length(), "ignore_eos": True, "logprobs": 1}
        branches.append(types_pb2.SamplingParams(**fields))
    fields = draft.sampled() | {"max_tokens": int(160 * draft.scale)}
    return draft.generate("fork", fork=Branching(rng.randint(1, 40), tuple(branches)), **fields)


def _once(draft: _Draft) -> Ask:
    fields = draft.sampled() | {"logprobs": 1}
    if draft.rng.random() < 0.5:
        return draft.chat("once", once=True, **fields)
    return draft.generate("once", once=True, **fields)


def _chat(draft: _Draft) -> Ask:
    fields = draft.sampled() if draft.rng.random() < 0.7 else {"temperature": 0.0}
    if draft.rng.random() < 0.3:
        fields |= {"stop": ["zz", ". The", "ow"], "min_tokens": 20}
    if draft.rng.random() < 0.3:
        fields |= {"n": 3, "logprobs": 1}
    return draft.chat("chat", **fields)


def _thinking(draft: _Draft) -> Ask:
    request = messages.ChatRequest(enable_thinking=True)
    request.thinking_budget = draft.rng.randint(8, 60)
    fields = draft.sampled() | {"max_tokens": int(200 * draft.scale)}
    if draft.rng.random() < 0.3:
        request.response_format.json_schema = json.dumps(_SCHEMA)
        del fields["seed"]
    return draft.chat("thinking", request=request, **fields)


def _tools(draft: _Draft) -> Ask:
    rng = draft.rng
    request = messages.ChatRequest()
    request.tools.add(name="get_weather", description="Of a city.", parameters=_WEATHER)
    request.tools.add(name="add", description="Adds numbers.", parameters=_SUM)
    choice = rng.random()
    if choice < 0.6:
        request.tool_choice.mode = messages.ToolChoice.MODE_REQUIRED
    elif choice < 0.8:
        request.tool_choice.name = "add"
    fields = draft.sampled() | {"max_tokens": 250, "ignore_eos": False}
    if rng.random() < 0.3:
        fields["n"] = 2
    return draft.chat("tools", request=request, **fields)


_KINDS: tuple[Callable[[_Draft], Ask], ...] = (
    *(_greedy, _seeded, _unseeded, _penalties, _several, _several, _schema, _regex, _logprobs),
    *(_repetitive, _stops, _fork, _fork, _once, _chat, _thinking, _tools),
)


NUM_KINDS = len(_KINDS)
"""So many asks in a row have all kinds."""


def ask(seed: int, number: int, scale: float = 1.0) -> Ask:
    """The ask of a number; `scale` makes those longer whose length is free."""
    rng = random.Random(f"{seed} {number}")
    return _KINDS[number % len(_KINDS)](_Draft(rng, number, scale))

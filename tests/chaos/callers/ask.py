"""Ask: a request without a name, and Reference: what it answers when nothing disturbs it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

Method = Literal["Generate", "GenerateOnce", "Chat", "Fork"]
Message = (
    messages.GenerateRequest | messages.ChatRequest | types_pb2.ForkRequest | types_pb2.Request
)

_WORDS = ("the", "fox", "and", "owl", "went", "down", "to", "a", "river", "where", "Anna", "sold")


@dataclass(frozen=True, slots=True)
class Reference:
    """The tokens and the text of each index."""

    token_ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]

    def after(self, num_tokens: int) -> "Reference":
        """What a greedy branch answers that was made after so many tokens; its text is unknown."""
        return Reference(tuple(ids[num_tokens:] for ids in self.token_ids), ())


@dataclass(frozen=True, eq=False)
class Ask:
    """A request of one kind, which always has the same answer."""

    label: str
    method: Method
    message: Message
    n: int = 1

    def named(self, name: str, priority: int = 0, cache_salt: str = "") -> Message:
        """The message under a request_id. With another salt its KV is computed anew."""
        message = type(self.message)()
        message.CopyFrom(self.message)  # type: ignore[arg-type]
        if isinstance(message, types_pb2.ForkRequest):
            message.fork_id = name
        else:
            message.request_id = name
            message.priority = priority
            message.cache_salt = cache_salt
        return message


def params(max_tokens: int, **fields: object) -> types_pb2.SamplingParams:
    """Greedy and of exact length, unless `fields` say otherwise."""
    values = {"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True, "seed": 7} | fields
    return types_pb2.SamplingParams(**values)  # type: ignore[arg-type]


def prompt(label: str, length: int) -> list[int]:
    """Token ids that no other label has in common, from the first block on."""
    rng = random.Random(label)
    return [rng.randrange(300, 1900) for _ in range(length)]


def generate(label: str, length: int, sampling: types_pb2.SamplingParams) -> Ask:
    """A stream from so many token ids."""
    ids = types_pb2.TokenIds(ids=prompt(label, length))
    n = sampling.n if sampling.HasField("n") else 1
    message = messages.GenerateRequest(token_ids=ids, sampling_params=sampling)
    return Ask(label, "Generate", message, n)


def once(ask: Ask) -> Ask:
    """The same without streaming."""
    return Ask(ask.label, "GenerateOnce", ask.message, ask.n)


def direct(ask: Ask) -> Ask:
    """The same for an engine, without a front end."""
    assert isinstance(ask.message, messages.GenerateRequest)
    message = types_pb2.Request(
        prompt_token_ids=ask.message.token_ids.ids, sampling_params=ask.message.sampling_params
    )
    return Ask(ask.label, "Generate", message, ask.n)


def chat(label: str, max_tokens: int) -> Ask:
    """A conversation of some words."""
    rng = random.Random(label)
    text = " ".join(rng.choices(_WORDS, k=rng.randint(4, 30)))
    said = messages.ChatMessage(role=messages.ROLE_USER, content=f"{label} {text}")
    sampling = params(max_tokens)
    return Ask(label, "Chat", messages.ChatRequest(messages=[said], sampling_params=sampling))


def fork(parent: str, max_tokens: int) -> Ask:
    """A greedy branch of a running request."""
    message = types_pb2.ForkRequest(request_id=parent, branches=[params(max_tokens)])
    return Ask(f"fork of {parent}", "Fork", message)


def grammar(label: str, max_tokens: int) -> Ask:
    """Small letters and spaces, more of them than max_tokens gives."""
    return generate(label, 24, params(max_tokens, regex="[a-z ]{1000}"))


def mixture(seed: int, size: int) -> Iterator[Ask]:
    """So many asks of all kinds but forks, different in each seed."""
    rng = random.Random(seed)
    for number in range(size):
        label = f"{seed}.{number}"
        tokens = rng.randint(4, 32)
        kind = rng.choice(("greedy", "greedy", "seeded", "n", "grammar", "chat", "once", "long"))
        if kind == "greedy":
            yield generate(label, rng.randint(4, 60), params(tokens))
        elif kind == "seeded":
            yield generate(label, 20, params(tokens, temperature=1.0, seed=number))
        elif kind == "n":
            sampling = params(tokens, temperature=1.0, seed=number, n=rng.randint(2, 4))
            yield generate(label, 20, sampling)
        elif kind == "grammar":
            yield grammar(label, tokens)
        elif kind == "chat":
            yield chat(label, tokens)
        elif kind == "once":
            yield once(generate(label, 20, params(tokens)))
        else:
            yield generate(label, rng.randint(150, 500), params(tokens))

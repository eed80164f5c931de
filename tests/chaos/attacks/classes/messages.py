"""What is costly to read: bombs of empty entries, large forks, long conversations, long names."""

import random
from collections.abc import Callable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chaos.attacks.shot import SERVICES, Shot, Target, shot
from chaos.attacks.wire import field, nested, paths
from chaos.callers.ask import params, prompt
from folovllm.v1 import engine_service_pb2, types_pb2
from folovllm.v1 import tokenizer_service_pb2 as messages

_MAX_BYTES = 4 * 2**20 - 64
_PARENT = "attack-parent"
_NAME = 1
"""The number of request_id in every request that has one."""
_TARGETS: tuple[Target, ...] = ("front end", "engine")


def _methods(rng: random.Random) -> tuple[Target, str, Descriptor]:
    target = rng.choice(_TARGETS)
    method = rng.choice(SERVICES[target].methods)
    return target, method.name, method.input_type


def bombs(rng: random.Random) -> Iterator[Shot]:
    """Any repeated field of any method, with more than a million empty entries.

    Most are 4 KB of gzip, the others as large as a message may be.
    """
    while True:
        target, name, descriptor = _methods(rng)
        found = [*paths(descriptor, {FieldDescriptor.TYPE_MESSAGE}, repeated=True)]
        if not found:
            continue
        *outer, last = rng.choice(found)
        entry = field(last, b"")
        # The outer fields' tags and lengths take some bytes too.
        count = (rng.choice((1_390_000, 2_000_000)) * 2) // len(entry)
        data = nested(outer, entry * count)[:_MAX_BYTES]
        yield Shot(target, name, data, compressed=rng.random() < 0.7)


def large_forks(rng: random.Random) -> Iterator[Shot]:
    """Forks whose branches together are as large as a message may be, or as bounds allow."""
    while True:
        branches = []
        for _ in range(rng.choice((128, 64, 16))):
            branch = params(1, temperature=1.0)
            for _ in range(rng.choice((1024, 512, 64))):
                branch.logit_bias[rng.randrange(2000)] = rng.uniform(-1, 1)
            for _ in range(rng.choice((0, 400))):
                branch.bad_words_token_ids.add(ids=rng.choices(range(300, 1900), k=24))
            branches.append(branch)
        request = types_pb2.ForkRequest(request_id=_PARENT, branches=branches)
        while request.ByteSize() > _MAX_BYTES:
            del request.branches[-1]
        yield shot(rng.choice(_TARGETS), "Fork", request)


def parents(rng: random.Random) -> Iterator[Shot]:
    """A stream of the front end that forks can name; it is there for both services."""
    ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), 8))
    request = messages.GenerateRequest(
        request_id=_PARENT, token_ids=ids, sampling_params=params(1500)
    )
    yield shot("front end", "Generate", request, timeout=120)


def huge_chats(rng: random.Random) -> Iterator[Shot]:
    """Conversations of hundreds to a million messages, tool calls or tools."""
    makers: tuple[Callable[[random.Random, int], bytes], ...] = (_messages, _tool_calls, _tools)
    while True:
        size = int(_MAX_BYTES ** rng.uniform(0.6, 1.0))
        data = rng.choice(makers)(rng, size)
        method = rng.choice(("Chat", "ChatOnce", "ApplyChatTemplate", "CountTokens"))
        if not method.startswith("Chat"):
            data = _renumbered(data)
        if method == "CountTokens":
            data = field(2, data)
        yield Shot("front end", method, data)


def _renumbered(data: bytes) -> bytes:
    """A ChatRequest's messages and tools as those of an ApplyChatTemplateRequest."""
    request = messages.ChatRequest.FromString(data)
    return messages.ApplyChatTemplateRequest(
        messages=request.messages, tools=request.tools
    ).SerializeToString()


def _messages(rng: random.Random, size: int) -> bytes:
    content = rng.choice((b"", field(2, b"a"), field(2, b"some words to say")))
    pair = b"".join(field(2, b"\x08" + bytes([role]) + content) for role in (2, 3))
    return pair * (size // len(pair)) + field(2, b"\x08\x02" + field(2, b"go"))


def _tool_calls(rng: random.Random, size: int) -> bytes:
    call = field(4, rng.choice((b"", field(2, b"f") + field(3, b"{}"))))
    calls = call * (size // len(call))
    return field(2, b"\x08\x02" + field(2, b"go")) + field(2, b"\x08\x03" + calls)


def _tools(rng: random.Random, size: int) -> bytes:
    tool = field(3, field(1, b"f") + rng.choice((b"", field(3, b'{"type":"object"}'))))
    return field(2, b"\x08\x02" + field(2, b"go")) + tool * (size // len(tool))


def long_names(rng: random.Random) -> Iterator[Shot]:
    """Texts of MiB in any field that takes text, most of all in names, which are logged."""
    while True:
        target, method, descriptor = _methods(rng)
        found = [*paths(descriptor, {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})]
        if rng.random() < 0.7 and [_NAME] in found:
            found = [[_NAME]]
        if not found:
            continue
        size = rng.choice((4096, 2**16, 2**20, 2**22 - 1024))
        data = nested(rng.choice(found), rng.choice(b"ax\x01").to_bytes(1, "big") * size)
        yield Shot(target, method, data)


def named_requests(rng: random.Random) -> Iterator[Shot]:
    """Sound requests but for names and salts of kilobytes to MiB."""
    while True:
        name = rng.choice("ab") * rng.choice((4096, 2**16, 2**20, 4 * 2**20 - 1024))
        ids = prompt(str(rng.random()), 4)
        sampling = params(1)
        kind = rng.randrange(4)
        if kind == 0:
            request = types_pb2.Request(
                request_id=name, prompt_token_ids=ids, sampling_params=sampling
            )
            yield shot("engine", "Generate", request)
        elif kind == 1:
            tokens = types_pb2.TokenIds(ids=ids)
            salted = messages.GenerateRequest(
                cache_salt=name, token_ids=tokens, sampling_params=sampling
            )
            yield shot("front end", "Generate", salted)
        elif kind == 2:
            named = messages.GenerateRequest(
                request_id=name, text="hello", sampling_params=sampling
            )
            yield shot("front end", "GenerateOnce", named)
        else:
            yield shot("engine", "Abort", engine_service_pb2.AbortRequest(request_id=name))

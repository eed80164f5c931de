"""Undisturbed: the same request again, where nothing happens to it."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from chaos.exact.asks import Ask
from chaos.exact.stream import Received, open_stream, parts
from chaos.exact.transcript import Transcript, differences, transcript
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_PATIENCE = (1.0, 5.0, 0.0)
"""Seconds before it is asked again."""
_MAX_PRECEDING = 1024
"""Of the output that a branch goes on with, as many of the latest tokens as can affect its text."""


async def problems_of(
    received: Received, parent: Received | None, stub: Any, *, exact: bool = True
) -> list[str]:
    """One line for each way in which an answer is not the undisturbed one.

    `parent` is the request that a fork has branched, `stub` that of a front end where nothing
    happens. `exact` is what each final message must say of itself.
    """
    if received.code is not grpc.StatusCode.OK:
        code = received.code.name if received.code is not None else "no end"
        return [f"{received} ended with {code}: {received.details[:160]}"]
    count = num_indexes(received)
    found = transcript(received, count)
    problems = [*_unmarked(found, exact)]
    expected: Iterable[tuple[str, Transcript, Transcript]]
    if received.method == "Fork":
        assert parent is not None
        expected = [
            (
                f"branch {index} ",
                _branch(found, index),
                await _branch_alone(found, index, parent, stub),
            )
            for index in sorted(found.infos)
        ]
    else:
        name, seed = received.name, found.seeds.get(0)
        alone = await _ask_undisturbed(stub, received.ask, name, seed, count)
        expected = [("", found, alone)]
    for which, ours, others in expected:
        problems += [f"{which}{each}" for each in differences(ours, others)]
    return [f"{received} {each}" for each in problems]


def num_indexes(received: Received) -> int:
    """How many continuations an answer has."""
    if received.method == "Fork":
        assert received.ask.fork is not None
        return len(received.ask.fork.branches)
    return received.ask.n


def _unmarked(found: Transcript, exact: bool) -> Iterator[str]:
    for index, each in found.continuations.items():
        if each.end is not None and each.exact is not exact:
            yield f"index {index} says that exact is {each.exact}"


async def _ask_undisturbed(
    stub: Any, ask: Ask, name: str, seed: int | None, count: int
) -> Transcript:
    """The answer to an ask. On a machine that is too busy an engine may be silent for a while."""
    for patience in _PATIENCE:
        stream = open_stream(stub, ask, name, seed)
        await stream.task
        received = stream.received
        if received.code is not grpc.StatusCode.UNAVAILABLE:
            break
        await asyncio.sleep(patience)
    assert received.code is grpc.StatusCode.OK, (
        f"undisturbed {received.name}: {received.code} {received.details}"
    )
    return transcript(received, count)


def _branch(found: Transcript, index: int) -> Transcript:
    """One branch of a fork, as if it were a request."""
    info = types_pb2.RequestInfo()
    info.CopyFrom(found.infos[index])
    for name in ("parent_output_token_ids", "prompt_fingerprint"):
        info.ClearField(name)
    each = found.continuations[index]
    return Transcript({0: each}, {0: info}, found.complaints if index == 0 else [])


async def _branch_alone(found: Transcript, index: int, parent: Received, stub: Any) -> Transcript:
    """What a request of the same tokens answers; its text is that which follows its parent's."""
    info = found.infos[index]
    before = [*info.parent_output_token_ids]
    request = messages.GenerateRequest(sampling_params=info.sampling_params)
    request.token_ids.ids.extend([*_prompt_of(parent), *before])
    ask = Ask(parent.ask.number, "branch", "Generate", request, parent.ask.num_tokens)
    answer = await _ask_undisturbed(stub, ask, f"{parent.name}-alone-{index}", None, 1)
    (each,) = answer.continuations.values()
    each.milestones = found.continuations[index].milestones  # its text begins elsewhere
    each.events.clear()
    each.say("text", await _text_after(before, each.token_ids, stub))
    answer.infos[0].ClearField("prompt_fingerprint")
    return answer


def _prompt_of(parent: Received) -> list[int]:
    infos = (part.info for message in parent.messages for part in parts(message))
    return [token for info in infos for token in info.prompt_token_ids]


async def _text_after(before: list[int], token_ids: list[int], stub: Any) -> str:
    options = messages.DetokenizeOptions(preceding_token_ids=before[-_MAX_PRECEDING:])
    sent = [
        messages.StreamDetokenizeRequest(options=options),
        messages.StreamDetokenizeRequest(token_ids=types_pb2.TokenIds(ids=token_ids)),
    ]
    return "".join([each.text async for each in stub.StreamDetokenize(iter(sent))])

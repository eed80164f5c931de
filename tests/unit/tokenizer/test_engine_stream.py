import asyncio

import pytest

from folovllm.errors import FolovError, UnavailableError
from folovllm.v1 import types_pb2
from support.fakes.stream_owner import StreamOwner
from tokenizer_service.engines.stream import TOKENS_PER_CONTINUATION, EngineStream, Retry

Piece = types_pb2.CompletionOutput


def make_stream(
    num_continuations: int = 1, wire_name: str = "r", retry: Retry | None = None
) -> EngineStream:
    stream = EngineStream("r", 10, num_continuations, retry)
    stream.attach(StreamOwner(), wire_name)
    return stream


def piece(index: int = 0, *token_ids: int, final: bool = False) -> Piece:
    reason = types_pb2.FINISH_REASON_LENGTH if final else types_pb2.FINISH_REASON_UNSPECIFIED
    return Piece(request_id="r", index=index, token_ids=token_ids, finish_reason=reason)


async def test_what_waits_comes_as_one_piece_of_each_continuation() -> None:
    stream = make_stream(2)
    for each in (piece(0, 1), piece(1, 2), piece(0, 3, final=True), piece(1, final=True)):
        stream.put(each)
    merged = [piece(0, 1, 3, final=True), piece(1, 2, final=True)]
    assert [each async for each in stream] == merged


async def test_a_reader_that_waits_is_woken() -> None:
    stream = make_stream()
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(piece(0, 1))
    stream.wake()
    assert list((await reading).token_ids) == [1]
    stream.put(piece(0, 2, final=True))
    assert [list(each.token_ids) async for each in stream] == [[2]]


async def test_outstanding_tokens_are_the_prompt_until_it_starts_and_each_continuation() -> None:
    stream = make_stream(2)
    assert stream.outstanding_tokens == 10 + 2 * TOKENS_PER_CONTINUATION
    stream.put(piece(0, 1))
    assert stream.outstanding_tokens == 2 * TOKENS_PER_CONTINUATION
    stream.put(piece(1, 1, final=True))
    assert stream.outstanding_tokens == TOKENS_PER_CONTINUATION
    stream.put(piece(0, final=True))
    assert stream.outstanding_tokens == 0 and stream.complete


async def test_pieces_that_no_one_takes_are_merged() -> None:
    stream = make_stream(2)
    for number in range(5000):
        stream.put(
            Piece(
                request_id="r",
                index=number % 2,
                token_ids=[number],
                cumulative_logprob=-number,
                info=types_pb2.RequestInfo(prompt_tokens=10) if number == 0 else None,
            )
        )
    for index in range(2):
        stream.put(piece(index, final=True))
    pieces = [each async for each in stream]
    assert len(pieces) < 12
    for index in range(2):
        own = [each for each in pieces if each.index == index]
        assert [i for each in own for i in each.token_ids] == list(range(index, 5000, 2))
        assert [each.finish_reason for each in own][:-1] == [0] * (len(own) - 1)
        assert own[-1].finish_reason == types_pb2.FINISH_REASON_LENGTH
    assert pieces[0].info.prompt_tokens == 10
    assert {each.request_id for each in pieces} == {"r"}


async def test_merged_pieces_have_a_bounded_size() -> None:
    stream = make_stream()
    for number in range(5000):
        each = piece(0, number, final=number == 4999)
        each.cumulative_logprob = -number
        each.logprobs.add(token=types_pb2.Logprob(token_id=number))
        stream.put(each)
    pieces = [each async for each in stream]
    assert 5 <= len(pieces) < 20
    assert max(len(each.logprobs) for each in pieces) <= 1024
    for each in pieces:
        assert [entry.token.token_id for entry in each.logprobs] == list(each.token_ids)
        assert each.cumulative_logprob == -each.token_ids[-1]
    assert [i for each in pieces for i in each.token_ids] == list(range(5000))


async def test_an_error_comes_after_what_was_there_once_something_was_taken() -> None:
    stream = make_stream()
    stream.put(piece(0, 0))
    await anext(stream)
    for number in (1, 2):
        stream.put(piece(0, number))
    stream.fail(UnavailableError("gone"), scheduled=True)
    assert list((await anext(stream)).token_ids) == [1, 2]
    with pytest.raises(UnavailableError, match="gone"):
        await anext(stream)


async def test_an_error_comes_at_once_where_nothing_was_taken() -> None:
    stream = make_stream()
    stream.put(piece(0, 1))
    stream.fail(UnavailableError("gone"), scheduled=True)
    with pytest.raises(UnavailableError, match="gone"):
        await anext(stream)


async def test_what_fails_before_it_is_read_may_begin_again_elsewhere() -> None:
    elsewhere = StreamOwner()
    failures: list[tuple[str, bool]] = []

    def retry(error: FolovError, scheduled: bool) -> FolovError | None:
        failures.append((str(error), scheduled))
        if len(failures) > 1:
            return UnavailableError("no more")
        stream.attach(elsewhere, "r~2")
        return None

    stream = make_stream(retry=retry)
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.put(piece(0, 1, final=True))
    assert stream.scheduled
    stream.fail(UnavailableError("gone"), scheduled=True)
    assert not stream.complete and not stream.scheduled
    assert stream.outstanding_tokens == 10 + TOKENS_PER_CONTINUATION
    stream.fail(UnavailableError("gone too"), scheduled=False)
    assert failures == [("gone", True), ("gone too", False)]
    with stream, pytest.raises(UnavailableError, match="no more"):
        await reading
    assert elsewhere.cancelled == ["r"]


async def test_what_goes_on_elsewhere_is_read_from_there() -> None:
    elsewhere = StreamOwner()

    def retry(error: FolovError, scheduled: bool) -> FolovError | None:
        stream.attach(elsewhere, "r~2")
        return None

    stream = make_stream(retry=retry)
    stream.put(piece(0, 1, final=True))
    stream.fail(UnavailableError("gone"), scheduled=True)
    with stream:
        stream.put(piece(0, 2))
        output = await anext(stream)
        assert (output.request_id, [*output.token_ids]) == ("r", [2])
        stream.abort([0])
    assert (elsewhere.aborted, elsewhere.cancelled) == ([0], ["r"])


async def test_what_was_read_is_not_begun_again() -> None:
    def unexpected(error: FolovError, scheduled: bool) -> FolovError | None:
        raise AssertionError("retried")

    stream = make_stream(retry=unexpected)
    stream.put(piece(0, 1))
    await anext(stream)
    stream.fail(UnavailableError("gone"), scheduled=True)
    with pytest.raises(UnavailableError):
        await anext(stream)


async def test_pieces_carry_the_callers_name() -> None:
    stream = make_stream(wire_name="r~1")
    each = piece(0, 1, final=True)
    each.request_id = "r~1"
    stream.put(each)
    assert (await anext(stream)).request_id == "r"

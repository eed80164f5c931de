import asyncio

import pytest

from folovllm.errors import UnavailableError
from folovllm.v1 import types_pb2
from support.fakes.stream_home import StreamHome, make_part
from tokenizer_service.engines.migration.attempts import Failure
from tokenizer_service.engines.part import TOKENS_PER_CONTINUATION, Part

Piece = types_pb2.CompletionOutput


GONE = Failure(UnavailableError("gone"), admitted=True, scheduled=True)


def attached(n: int = 1, wire_name: str = "r") -> Part:
    """The only part of a stream, in a session."""
    part = make_part(n=n)
    part.attach(StreamHome(), wire_name)
    return part


def piece(index: int = 0, *token_ids: int, final: bool = False) -> Piece:
    reason = types_pb2.FINISH_REASON_LENGTH if final else types_pb2.FINISH_REASON_UNSPECIFIED
    return Piece(request_id="r", index=index, token_ids=token_ids, finish_reason=reason)


async def test_what_waits_comes_as_one_piece_of_each_continuation() -> None:
    part = attached(2)
    stream = part.stream
    for each in (piece(0, 1), piece(1, 2), piece(0, 3, final=True), piece(1, final=True)):
        part.put(each)
    merged = [piece(0, 1, 3, final=True), piece(1, 2, final=True)]
    for each in merged:
        each.exact = True
    assert [each async for each in stream] == merged


async def test_a_reader_that_waits_is_woken() -> None:
    part = attached()
    stream = part.stream
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    part.put(piece(0, 1))
    stream.wake()
    assert list((await reading).token_ids) == [1]
    part.put(piece(0, 2, final=True))
    assert [list(each.token_ids) async for each in stream] == [[2]]


async def test_outstanding_tokens_are_the_prompt_until_it_starts_and_each_continuation() -> None:
    part = attached(2)
    stream = part.stream
    assert part.outstanding_tokens == 10 + 2 * TOKENS_PER_CONTINUATION
    part.put(piece(0, 1))
    assert part.outstanding_tokens == 2 * TOKENS_PER_CONTINUATION
    part.put(piece(1, 1, final=True))
    assert part.outstanding_tokens == TOKENS_PER_CONTINUATION
    part.put(piece(0, final=True))
    assert part.outstanding_tokens == 0 and stream.complete


async def test_pieces_that_no_one_takes_are_merged() -> None:
    part = attached(2)
    stream = part.stream
    for number in range(5000):
        part.put(
            Piece(
                request_id="r",
                index=number % 2,
                token_ids=[number],
                cumulative_logprob=-number,
                info=types_pb2.RequestInfo(prompt_tokens=10) if number == 0 else None,
            )
        )
    for index in range(2):
        part.put(piece(index, final=True))
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
    part = attached()
    stream = part.stream
    for number in range(5000):
        each = piece(0, number, final=number == 4999)
        each.cumulative_logprob = -number
        each.logprobs.add(token=types_pb2.Logprob(token_id=number))
        part.put(each)
    pieces = [each async for each in stream]
    assert 5 <= len(pieces) < 20
    assert max(len(each.logprobs) for each in pieces) <= 1024
    for each in pieces:
        assert [entry.token.token_id for entry in each.logprobs] == list(each.token_ids)
        assert each.cumulative_logprob == -each.token_ids[-1]
    assert [i for each in pieces for i in each.token_ids] == list(range(5000))


async def test_an_error_comes_after_what_was_there_once_something_was_taken() -> None:
    part = attached()
    part.put(piece(0, 0))
    await anext(part.stream)
    for number in (1, 2):
        part.put(piece(0, number))
    part.fail(GONE)
    assert list((await anext(part.stream)).token_ids) == [1, 2]
    with pytest.raises(UnavailableError, match="gone"):
        await anext(part.stream)


async def test_an_error_comes_at_once_where_nothing_was_taken() -> None:
    part = attached()
    part.put(piece(0, 1))
    part.fail(GONE)
    with pytest.raises(UnavailableError, match="gone"):
        await anext(part.stream)


async def test_a_stream_that_is_ended_from_outside_frees_its_engine_and_tells_its_reader() -> None:
    home = StreamHome()
    part = make_part()
    part.attach(home, "r")
    reading = asyncio.create_task(anext(part.stream))
    await asyncio.sleep(0)
    part.stream.end(UnavailableError("replaced"))
    assert home.cancelled == ["r"] and part.stream.has_ended
    with pytest.raises(UnavailableError, match="replaced"):
        await reading
    part.stream.end(UnavailableError("again"))
    with part.stream, pytest.raises(UnavailableError, match="replaced"):
        await anext(part.stream)
    assert home.cancelled == ["r"]


async def test_what_goes_on_elsewhere_is_read_from_there() -> None:
    elsewhere = StreamHome()
    part = attached()
    part.put(piece(0, 1))
    part.attach(elsewhere, "r~2")
    assert not part.scheduled
    # Its new engine computes what came before again.
    assert part.outstanding_tokens == 11 + TOKENS_PER_CONTINUATION
    with part.stream as stream:
        moved = piece(0, 2)
        moved.request_id = "r~2"
        part.put(moved)
        part.put_ids(0, [3, 4])
        output = await anext(stream)
        assert (output.request_id, [*output.token_ids]) == ("r", [1, 2, 3, 4])
        stream.abort([0])
    assert (elsewhere.aborted, elsewhere.cancelled) == ([0], ["r"])


async def test_what_was_not_read_may_begin_again() -> None:
    part = attached(2)
    part.put(piece(0, 1, final=True))
    part.forget()
    part.attach(StreamHome(), "r")
    for index in range(2):
        part.put(piece(index, 5, final=True))
    outputs = [output async for output in part.stream]
    assert [[*output.token_ids] for output in outputs] == [[5], [5]]


async def test_what_is_kept_of_a_continuation_is_what_was_sent() -> None:
    part = attached(2)
    output = piece(1, 7, 8)
    for number in (-0.5, -0.25):
        output.logprobs.add(token=types_pb2.Logprob(token_id=7, logprob=number))
    part.put(output)
    part.put_ids(0, [3])
    part.put(piece(1, 9, final=True))
    first, second = part.stream.progress
    assert [*first.token_ids] == [3] and not first.is_over
    assert [*second.token_ids] == [7, 8, 9] and [*second.logprobs] == [-0.5, -0.25]
    assert second.is_over and second.final and second.final.exact
    assert part.indexes == [0]


async def test_info_that_comes_again_from_another_engine_is_passed_on_once() -> None:
    def info(*positions: int, begins: bool = False) -> Piece:
        output = Piece(request_id="r")
        if begins:
            output.info.sampling_params.seed = 7
            output.info.prompt_tokens = 10
        output.info.SetInParent()
        for token_id in positions:
            output.info.prompt_logprobs.add().token.token_id = token_id
        return output

    part = attached()
    part.put(info(1, 2, begins=True))
    part.put(info(3))
    part.attach(StreamHome(), "r~2")
    part.put(info(1, 2, 3, 4, begins=True))
    part.put(info(5))
    part.put(piece(0, 9, final=True))
    outputs = [output async for output in part.stream]
    seen = [each.token.token_id for output in outputs for each in output.info.prompt_logprobs]
    assert seen == [1, 2, 3, 4, 5]
    assert [output.info.prompt_tokens for output in outputs if output.HasField("info")][0] == 10
    assert sum(output.info.HasField("sampling_params") for output in outputs) == 1

"""What tells answers apart that should be the same; that they are is asserted by the short form."""

import struct
from collections.abc import Callable, Iterator

import grpc
import pytest

from chaos.exact.asks import ask
from chaos.exact.pauses import Prefill, lengths_of, pause
from chaos.exact.stream import Received
from chaos.exact.transcript import differences, transcript
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

Piece = types_pb2.CompletionOutput
_LENGTH = types_pb2.FINISH_REASON_LENGTH
_NEXT_FLOAT = struct.unpack(
    "<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", -2))[0] + 1)
)


def received(method: str, *found: object) -> Received:
    answer = Received(
        ask(0, 0), "r", method, [*found], [float(place) for place in range(len(found))]
    )
    answer.code = grpc.StatusCode.OK
    return answer


def pieces(*sizes: int) -> list[Piece]:
    """One answer of six tokens, in pieces of these sizes."""
    entries = [
        types_pb2.PositionLogprobs(token=types_pb2.Logprob(token_id=each, logprob=-2.0))
        for each in range(6)
    ]
    found, begin = [], 0
    for size in sizes:
        ids = [*range(begin, begin + size)]
        piece = Piece(request_id="r", token_ids=ids, text="abcdef"[begin : begin + size])
        piece.logprobs.extend(entries[begin : begin + size])
        begin += size
        piece.cumulative_logprob = -2.0 * begin
        found.append(piece)
    found[0].info.sampling_params.seed = 7
    found[0].info.cached_tokens = len(sizes)
    found[-1].finish_reason = _LENGTH
    found[-1].usage.completion_tokens = 6
    found[-1].exact = True
    found[-1].num_moves = len(sizes)
    return found


def events(*cuts: int) -> list[messages.ChatOutput]:
    """One chat's answer, whose content is cut at these places."""
    text = "It is cold."
    found = [messages.ChatOutput(request_id="r", token_ids=[1], reasoning_delta="Hm")]
    for begin, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        found.append(
            messages.ChatOutput(
                request_id="r", token_ids=range(begin, end), content_delta=text[begin:end]
            )
        )
    start = messages.ToolCallStart(id="call 1", name="add")
    found.append(messages.ChatOutput(request_id="r", tool_call_start=start))
    finish = messages.ChatFinish(reason=messages.CHAT_FINISH_REASON_STOP, exact=True)
    found.append(messages.ChatOutput(request_id="r", finish=finish))
    return found


def test_pieces_do_not_matter() -> None:
    for method, whole, others in (
        ("Generate", pieces(6), [pieces(1, 1, 1, 1, 1, 1), pieces(2, 4), pieces(3, 1, 2)]),
        ("Chat", events(), [events(3), events(3, 9)]),
    ):
        expected = transcript(received(method, *whole), 1)
        for each in others:
            assert [*differences(transcript(received(method, *each), 1), expected)] == []


def changed(change: Callable[[list[Piece]], object]) -> Iterator[str]:
    found = pieces(2, 4)
    change(found)
    expected = transcript(received("Generate", *pieces(2, 4)), 1)
    return differences(transcript(received("Generate", *found), 1), expected)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: found[1].token_ids.__setitem__(0, 9), "token 2 is 9, not 2"),
        (lambda found: found[1].token_ids.pop(), "token 6 of 5 is missing or one too many"),
        (
            lambda found: setattr(found[1].logprobs[0].token, "logprob", *_NEXT_FLOAT),
            "log-probability 2 is",
        ),
        (lambda found: setattr(found[0], "text", "a b"), "event 0 is"),
        (lambda found: setattr(found[0], "cumulative_logprob", -4.5), "after 2 tokens (2, -4.5)"),
        (lambda found: setattr(found[1], "finish_reason", 1), "ended with"),
        (lambda found: setattr(found[1].usage, "completion_tokens", 5), "usage is (0, 5, 0)"),
        (lambda found: found.pop(), "index 0 has no end"),
        (lambda found: found.append(found[1]), "index 0 went on after its end"),
        (lambda found: setattr(found[0], "request_id", "q"), "a message is of q"),
        (lambda found: setattr(found[1], "index", 1), "there is no index [1]"),
        (lambda found: found[0].ClearField("info"), "index 0 has no info"),
        (lambda found: found[1].info.CopyFrom(found[0].info), "info of index 0 came after"),
        (
            lambda found: setattr(found[0].info.sampling_params, "seed", 8),
            "info of index 0: sampling_params differs",
        ),
    ],
)
def test_each_difference(change: Callable[[list[Piece]], object], complaint: str) -> None:
    assert any(complaint in each for each in changed(change))


def test_an_event_that_differs() -> None:
    ours, others = events(3), events(3)
    ours[-2].tool_call_start.id = "call 2"
    found = differences(
        transcript(received("Chat", *ours), 1), transcript(received("Chat", *others), 1)
    )
    assert "event 2 is" in next(found)


def test_a_pause_is_the_longest_time_without_a_token_that_began_about_then() -> None:
    # Tokens come at 0, 1, 2 ... and each is of the one index.
    answer = received("Generate", *pieces(*[1] * 6))
    answer.times = [0.0, 0.01, 0.03, 0.53, 1.5, 2.0]
    assert pause(answer, 0.02) == pytest.approx(0.5)  # one was on its way
    assert pause(answer, 0.04) == pytest.approx(0.49)
    assert pause(answer, 2.5) is None


def test_what_is_computed_again_is_prompt_and_output_of_what_runs() -> None:
    answer = received("Generate", *pieces(2, 4)[:1])
    answer.messages[0].info.prompt_tokens = 40
    assert lengths_of(answer) == [42]
    assert Prefill(fixed=1.0, each_token=0.5).of([42, 8]) == 27.0
    assert lengths_of(received("Generate", *pieces(2, 4))) == []

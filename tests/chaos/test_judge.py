"""The judge can say no: by each rule of a stream, and to a table of faults that has grown old."""

import grpc
import pytest

from chaos.callers.ask import Reference, generate, mixture, params
from chaos.callers.call import Piece, Record
from chaos.callers.population import plan
from chaos.checks.rest import Held
from chaos.checks.streams import problems
from chaos.checks.verdicts import Report
from chaos.inside.fake_model import expected_tokens, next_token

OK = grpc.StatusCode.OK
LENGTH = 2
ASK = generate("ask", 4, params(3, n=2))
REFERENCE = Reference(((5, 6, 7), (8, 9, 10)), ("abc", "xyz"))


def record(*pieces: tuple[int, tuple[int, ...], str, int], code: object = OK) -> Record:
    found = [Piece("r", index, ids, text, finish, 0.0) for index, ids, text, finish in pieces]
    return Record(ASK, "r", pieces=found, code=code)  # type: ignore[arg-type]


RIGHT = (0, (5, 6, 7), "abc", LENGTH)


@pytest.mark.parametrize(
    ("pieces", "code", "complaint"),
    [
        ((RIGHT, (1, (8,), "x", 0), (1, (9, 10), "yz", LENGTH)), OK, ""),
        ((RIGHT, (1, (8,), "x", 0)), grpc.StatusCode.UNAVAILABLE, ""),
        ((RIGHT,), OK, "has no end, though the call ended with OK"),
        ((RIGHT, RIGHT, (1, (8, 9, 10), "xyz", LENGTH)), OK, "ended 2 times"),
        ((RIGHT, (0, (), "", 0), (1, (8, 9, 10), "xyz", LENGTH)), OK, "went on after its end"),
        ((RIGHT, (1, (8, 7, 10), "xyz", LENGTH)), OK, "answered 7 at 1, not 9"),
        ((RIGHT, (1, (8, 9), "xyz", LENGTH)), OK, "answered 2 tokens, not 3"),
        ((RIGHT, (1, (8, 9, 10), "xy", LENGTH)), OK, "said 'xy', not what it says undisturbed"),
        ((RIGHT, (2, (), "", LENGTH)), grpc.StatusCode.UNAVAILABLE, "got index 2"),
        ((), grpc.StatusCode.UNKNOWN, "ended with UNKNOWN"),
        ((), None, "has not ended"),
    ],
)
def test_each_rule_of_a_stream(
    pieces: tuple[tuple[int, tuple[int, ...], str, int], ...], code: object, complaint: str
) -> None:
    found = [*problems(record(*pieces, code=code), REFERENCE, {OK, grpc.StatusCode.UNAVAILABLE})]
    assert any(complaint in each for each in found) if complaint else found == []


def test_a_message_of_another_request_is_found() -> None:
    mixed = record(RIGHT, (1, (8, 9, 10), "xyz", LENGTH))
    mixed.pieces[0].name = "other"
    assert [*problems(mixed, REFERENCE, {OK})] == ["r (ask) got a message of other"]


def test_what_is_known_to_fail_must_fail() -> None:
    report = Report({"old: *": "why"})
    for name, found in (("old: a", ["x"]), ("old: b", []), ("new", [])):
        report.add(name, found, quiet=True)
    names = ("old: a", "old: b", "new")
    assert [report.verdict(name) for name in names] == ["known", "MENDED", "ok"]
    assert report.exit_code == 1


def test_only_what_is_not_known_fails_a_run() -> None:
    report = Report({"old": "why"})
    report.add("old", ["x"], quiet=True)
    assert report.exit_code == 0
    report.add("new", ["x"], quiet=True)
    assert report.exit_code == 1


def test_what_is_held_longer_than_before_is_named() -> None:
    before = Held({"read": 2}, 20, num_free_blocks=64)
    after = Held({"read": 3, "write": 1}, 40, num_free_blocks=60, num_requests=1)
    assert before.beyond(before) == []
    assert after.beyond(before) == [
        *("1 requests", "4 KV blocks", "1 tasks of read", "1 tasks of write", "20 descriptors")
    ]


def test_a_seed_makes_the_same_callers_again() -> None:
    asks, again = [*mixture(3, 20)], [*mixture(3, 20)]
    assert [ask.message for ask in asks] == [ask.message for ask in again]
    plans = [plan(3, number, asks) for number in range(300)]
    assert plans == [plan(3, number, asks) for number in range(300)]
    assert len({each.manner for each in plans}) > 100
    assert plans != [plan(4, number, asks) for number in range(300)]


def test_a_token_of_the_fake_model_depends_on_all_that_may_be_mistaken() -> None:
    args = {"previous": 700, "position": 9, "seed": 3, "index": 0, "vocab_size": 2048}
    others = [next_token(**(args | {name: args[name] + 1})) for name in list(args)[:4]]
    assert next_token(**args) not in others
    assert expected_tokens([1, 2], 5, 2048)[:3] == expected_tokens([1, 2], 3, 2048)

"""What attackers send follows from a seed, and the judge of attacks and of overload can say no."""

import random
from collections import Counter
from itertools import islice

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from chaos.attacks.beside import Seen
from chaos.attacks.catalogue import ATTACKS, attack_of
from chaos.attacks.strike import Sent, problems_of
from chaos.attacks.wire import field
from chaos.checks.verdicts import Report
from chaos.overload import Attempt, Run, judge

CHEAP = [name for name in ATTACKS if name not in ("large-forks", "bad-words", "huge-chats")]
HARMLESS = Seen(gap=0.1, usual_gap=0.01, wait=1.0, health={"engine 0": 0.1}, num_innocent=9)
GOOD = Sent(Counter(OK=5, INVALID_ARGUMENT=7), num_open=1, complaints=[], logged=9_000)
MIB = 2**20


@pytest.mark.parametrize("name", CHEAP)
def test_a_seed_makes_the_same_attack_again(name: str) -> None:
    attack = ATTACKS[name]
    found = [[*islice(attack.shots(random.Random(seed)), 3)] for seed in (3, 3, 4)]
    assert found[0] == found[1]
    for shot in found[0]:
        assert shot.descriptor.name == shot.method
    assert attack.magazine == 1 or found[0] != found[2]


def test_what_is_written_by_hand_is_a_message_of_its_type() -> None:
    for shot in islice(ATTACKS["bombs"].shots(random.Random(5)), 2):
        GetMessageClass(shot.descriptor.input_type).FromString(shot.data)
    assert field(1, b"a" * 300)[:3] == b"\x0a\xac\x02"


def test_a_twin_is_the_attack_without_what_is_costly() -> None:
    twin = attack_of("penalties/twin")
    assert twin.shots is ATTACKS["penalties"].twin
    assert twin.width == ATTACKS["penalties"].width


@pytest.mark.parametrize(
    ("name", "what", "seen", "sent"),
    [
        ("patterns", "", HARMLESS, GOOD),
        ("patterns", "canary", Seen(gap=0.36, health={}), GOOD),
        ("patterns", "canary", Seen(canary=["wrong"]), GOOD),
        ("patterns", "health", Seen(health={"engine 0": 0.51}), GOOD),
        ("patterns", "health", Seen(unhealthy=["NOT_SERVING"]), GOOD),
        ("patterns", "others", Seen(refused=["refused"]), GOOD),
        ("patterns", "others", Seen(wait=6.1), GOOD),
        ("penalties", "canary", Seen(usual_gap=0.046), GOOD),
        ("patterns", "", Seen(usual_gap=0.046), GOOD),
        ("patterns", "calls", HARMLESS, Sent(Counter(INTERNAL=1), 0, [], 0)),
        ("patterns", "calls", HARMLESS, Sent(Counter(OK=1), 0, ["an attacker broke"], 0)),
        ("patterns", "calls", HARMLESS, Sent(Counter(), 0, [], 0)),
        ("patterns", "logs", HARMLESS, Sent(Counter(OK=1), 0, [], MIB)),
    ],
)
def test_each_rule_of_an_attack(name: str, what: str, seen: Seen, sent: Sent) -> None:
    found = problems_of(ATTACKS[name], seen, HARMLESS, sent)
    assert {each for each, problems in found.items() if problems} == ({what} if what else set())


def attempt(seconds: float, delay: float | None, first: bool = False) -> Attempt:
    code = grpc.StatusCode.OK if first else grpc.StatusCode.RESOURCE_EXHAUSTED
    first_at = seconds if first else None
    return Attempt(0.0, first_at, seconds, code=code, delay=delay, pushback=delay)


@pytest.mark.parametrize(
    ("failed", "change"),
    [
        (set(), {}),
        ({"goodput"}, {"goodput": 0.91}),
        ({"the machine"}, {"share": 0.51}),
        ({"answers"}, {"wrong": ["other tokens"]}),
        ({"first token"}, {"admitted": attempt(2.1, None, first=True)}),
        ({"refusals"}, {"refused": attempt(0.11, 1.0)}),
        ({"delays"}, {"refused": attempt(0.01, 10.1)}),
        ({"delays"}, {"refused": attempt(0.01, None)}),
        ({"probes"}, {"returned": attempt(0.01, 1.0)}),
    ],
)
def test_each_rule_of_overload(failed: set[str], change: dict[str, object]) -> None:
    parts: dict[str, object] = {
        "admitted": attempt(1.9, None, first=True),
        "refused": attempt(0.09, 9.9),
        "returned": attempt(0.5, None, first=True),
        "goodput": 0.93,
        "share": 0.49,
        "wrong": [],
    } | change
    report, run = Report({}), Run(wrong=parts["wrong"])  # type: ignore[arg-type]
    run.firsts = [parts["admitted"], parts["refused"]] * 50  # type: ignore[list-item]
    run.returns = [parts["returned"]] * 20  # type: ignore[list-item]
    judge(report, run, 30.0, parts["goodput"], parts["share"])  # type: ignore[arg-type]
    found = {name for name, check in report.checks.items() if check.num_failed}
    assert found == {f"overload: {name}" for name in failed}

"""Turns between callers, and who has to leave when too many wait."""

import pytest

from folovllm.serving.lanes.fair_queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_callers_take_turns_whatever_each_has_brought() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert queue.push(item[0], item) is None
    assert [queue.pop(), queue.pop()] == ["a1", "b1"]
    queue.push("b", "b2")
    assert drained(queue) == ["c1", "b2", "a2", "c2", "a3"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_who_brings_little_goes_before_those_who_bring_much() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for number in range(50):
        queue.push(f"greedy {number}", "much", cost=100.0)
    for _ in range(10):
        assert queue.pop() == "much"
    queue.push("modest", "little", cost=10.0)
    queue.push("another", "less", cost=70.0)
    queue.push("late", "as much", cost=95.0)
    assert [queue.pop(), queue.pop()] == ["little", "less"]
    assert drained(queue) == ["much"] * 40 + ["as much"], "they have waited for longer"


def test_who_brings_much_is_not_passed_by_for_ever() -> None:
    queue: FairQueue[str] = FairQueue(100)
    queue.push("greedy", "much", cost=100.0)
    order = []
    for number in range(300):
        queue.push(f"modest {number}", "little")
        order.append(queue.pop())
    assert 100 < order.index("much") < 250


def test_the_last_of_whoever_has_the_most_has_to_leave() -> None:
    queue: FairQueue[str] = FairQueue(3)
    for item in ("a1", "a2", "b1"):
        queue.push(item[0], item)
    assert queue.push("c", "c1") == "a2"
    assert queue.push("b", "b2") == "b2", "its own, since nobody has more"
    assert queue.push("d", "d1") == "d1"
    assert drained(queue) == ["a1", "b1", "c1"]

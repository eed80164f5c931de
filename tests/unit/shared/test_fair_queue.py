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
    assert drained(queue) == ["c1", "a2", "b2", "c2", "a3"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_the_last_of_whoever_has_the_most_has_to_leave() -> None:
    queue: FairQueue[str] = FairQueue(3)
    for item in ("a1", "a2", "b1"):
        queue.push(item[0], item)
    assert queue.push("c", "c1") == "a2"
    assert queue.push("b", "b2") == "b2", "its own, since nobody has more"
    assert queue.push("d", "d1") == "d1"
    assert drained(queue) == ["a1", "b1", "c1"]

"""Whose turn it is when grammars queue for the compiler."""

from engine_service.structured_output.rehearsal.fair_queue import Claim, FairQueue


def queue_of(*claims: Claim[str], max_claims: int = 100, max_bytes: int = 10**7) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(max_claims, max_bytes)
    for claim in claims:
        assert queue.push(claim) == []
    return queue


def drain(queue: FairQueue[str], seconds: float = 1.0) -> list[str]:
    """The items in their order, each of which takes its turn for so long."""
    items = []
    while len(queue):
        claim = queue.pop()
        queue.charge(claim, seconds)
        items.append(claim.item)
    return items


def test_callers_take_turns_however_much_one_asks_for() -> None:
    flood = [Claim(f"flood {i}", "attacker", 100) for i in range(50)]
    queue = queue_of(*flood, Claim("first", "a", 100), Claim("second", "b", 100))
    order = drain(queue)
    assert {"first", "second"} <= set(order[:3])
    assert [item for item in order if item.startswith("flood")] == [c.item for c in flood]


def test_small_requests_of_a_caller_do_not_wait_for_a_flood_of_large_ones() -> None:
    flood = [Claim(f"flood {i}", "tokenizer", 50_000) for i in range(50)]
    order = drain(queue_of(*flood, Claim("small", "tokenizer", 300)))
    assert "small" in order[:2]


def test_who_used_less_time_is_next() -> None:
    queue = queue_of(*(Claim(f"{caller} {i}", caller, 100) for caller in "ab" for i in range(6)))
    seconds = {"a": 5.0, "b": 1.0}
    order = []
    while len(queue):
        claim = queue.pop()
        queue.charge(claim, seconds[claim.caller])
        order.append(claim.caller)
    assert order[:7] == ["a", "b", "b", "b", "b", "b", "a"]


def test_who_comes_late_has_saved_nothing() -> None:
    queue = queue_of(*(Claim(f"a {i}", "a", 100) for i in range(10)))
    for _ in range(5):
        queue.charge(queue.pop(), 1.0)
    for i in range(5):
        queue.push(Claim(f"b {i}", "b", 100))
    order = [item[0] for item in drain(queue)]
    assert order[:4].count("a") == order[:4].count("b") == 2


def test_a_full_queue_drops_the_newest_of_who_fills_it() -> None:
    flood = [Claim(f"flood {i}", "attacker", 100) for i in range(3)]
    queue = queue_of(*flood, Claim("other", "a", 100), max_claims=4)
    assert queue.push(Claim("late", "b", 100)) == [flood[2]]
    assert queue.push(Claim("more", "attacker", 100)) == [Claim("more", "attacker", 100)]
    assert set(drain(queue)) == {"flood 0", "flood 1", "other", "late"}


def test_a_full_queue_counts_bytes_too() -> None:
    queue = queue_of(Claim("large", "a", 900), Claim("small", "b", 50), max_bytes=1000)
    dropped = queue.push(Claim("next", "b", 100))
    assert [claim.item for claim in dropped] == ["large"]
    assert drain(queue) == ["small", "next"]


def test_what_is_removed_is_gone_and_may_be_removed_again() -> None:
    claims = [Claim(str(i), "a", 100) for i in range(3)]
    queue = queue_of(*claims)
    for _ in range(2):
        queue.remove(claims[1])
    assert len(queue) == 2
    assert drain(queue) == ["0", "2"]


def test_callers_who_are_gone_are_forgotten() -> None:
    queue = queue_of(Claim("waits", "waits", 100))
    for i in range(5000):
        claim = Claim(str(i), str(i), 100)
        queue.push(claim)
        queue.remove(claim)
    assert len(queue._callers) < 2000
    assert drain(queue) == ["waits"]
    assert not queue._callers

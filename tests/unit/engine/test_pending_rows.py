"""What a session's rows become: columns of bounded size that lose and reorder nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.rpc.pending_rows import PendingRows
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import engine_service_pb2

Ids = dict[int, list[int]]

IDS = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6)
STEPS = st.dictionaries(st.integers(1, 5), IDS, max_size=5)


def add(rows: PendingRows, step: Ids) -> None:
    rows.add([*step], [tuple(ids) for ids in step.values()])


def take(rows: PendingRows) -> tuple[Ids, engine_service_pb2.OutputColumns]:
    """The ids of the next message, by their handles."""
    message = engine_service_pb2.SessionEvents()
    size = rows.move_to(message)
    columns, token_ids = message.columns, iter(message.columns.token_ids)
    assert (size > 0) is message.HasField("columns") is bool(columns.handles)
    counts = columns.num_token_ids or [1] * len(columns.handles)
    ids = {
        handle: [next(token_ids) for _ in range(count)]
        for handle, count in zip(columns.handles, counts, strict=True)
    }
    assert len(ids) == len(counts) and all(ids.values()) and not [*token_ids]
    return ids, columns


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(STEPS, st.just("take"), st.sets(st.integers(1, 5))), max_size=12))
def test_nothing_is_lost_or_reordered(what: list[Ids | str | set[int]]) -> None:
    rows, told, got = PendingRows(), dict[int, list[int]](), dict[int, list[int]]()

    def keep(handle: int, ids: list[int]) -> None:
        assert 0 < len(ids) <= 4
        got.setdefault(handle, []).extend(ids)

    def read() -> None:
        ids, _ = take(rows)
        assert sum(map(len, ids.values())) <= 4
        for handle, new in ids.items():
            keep(handle, new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine_service.rpc.pending_rows._MAX_IDS", 4)
        for each in what:
            if isinstance(each, dict):
                add(rows, each)
                for handle, ids in each.items():
                    told.setdefault(handle, []).extend(ids)
            elif isinstance(each, set):
                for handle, ids in rows.pop(each):
                    keep(handle, ids)
                assert all(got.get(handle) == told.get(handle) for handle in each)
            else:
                read()
        while rows:
            read()
    assert got == told
    assert take(rows) == ({}, engine_service_pb2.OutputColumns())


def test_a_step_with_an_id_for_each_needs_no_counts() -> None:
    rows = PendingRows()
    add(rows, {handle: [handle + 1] for handle in range(1, 300)})
    ids, columns = take(rows)
    assert ids == {handle: [handle + 1] for handle in range(1, 300)}
    assert not columns.num_token_ids and not rows
    add(rows, {1: [2], 2: [3, 4]})
    _, columns = take(rows)
    assert [*columns.num_token_ids] == [1, 2]


def test_thousands_of_rows_that_waited_long_come_in_small_messages() -> None:
    rows, largest = PendingRows(), 2**32 - 1
    for _ in range(30):
        add(rows, {10**15 - handle: [largest] * 4 for handle in range(3000)})
    add(rows, {1: [largest] * 50_000})
    count, sizes = 0, []
    while rows:
        ids, columns = take(rows)
        count += sum(map(len, ids.values()))
        sizes.append(columns.ByteSize())
    assert count == 30 * 3000 * 4 + 50_000
    assert max(sizes) < MAX_MESSAGE_BYTES // 32 and len(sizes) < 2 * count / 4096

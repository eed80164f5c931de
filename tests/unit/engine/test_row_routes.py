"""A row goes past the stream of its request only where it overtakes nothing."""

from collections.abc import Sequence

from engine_service.engine.delivery.row_routes import RowRoutes
from engine_service.engine.delivery.step_outputs import StepOutputs
from engine_service.engine.output_stream import OutputStream
from folovllm.outputs import CompletionOutput, FinishReason


class Sink:
    def __init__(self) -> None:
        self.rows: list[tuple[int, tuple[int, ...]]] = []

    def put_rows(self, handles: list[int], token_ids: list[Sequence[int]]) -> None:
        self.rows += zip(handles, map(tuple, token_ids), strict=True)


def output(index: int, *token_ids: int, ends: bool = False) -> CompletionOutput:
    reason = FinishReason.LENGTH if ends else None
    return CompletionOutput("a", index, token_ids=[*token_ids], finish_reason=reason)


def routed(routes: RowRoutes, *indexes: int) -> list[int]:
    """The indexes of those rows that go past the stream."""
    addresses = [("a", index) for index in indexes]
    rest = {address for address, _ in routes.send(addresses, [(1,)] * len(addresses))}
    return [index for index in indexes if ("a", index) not in rest]


def test_a_continuation_has_a_route_while_nothing_of_it_waits() -> None:
    routes, sink = RowRoutes(), Sink()
    stream = OutputStream("a", 3, routes)
    stream.send_rows(sink, 10)
    assert routed(routes, 0, 1, 2) == []
    stream.put(output(0, 1))
    stream.put(output(2, 1))
    pieces = stream.drain()
    assert routed(routes, 0, 2) == []
    stream.put(output(2, 2))  # while the pieces are written
    stream.resume_rows(pieces)
    assert routed(routes, 0, 1, 2) == [0]
    stream.resume_rows(stream.drain())
    assert routed(routes, 0, 1, 2) == [0, 2]
    assert sink.rows == [(10, (1,)), (10, (1,)), (12, (1,))]
    assert {*stream.handles} == {10, 12}
    stream.put(output(0, 5))
    assert routed(routes, 0, 2) == [2]
    stream.put(output(0, ends=True))
    stream.resume_rows(stream.drain())
    assert routed(routes, 0, 2) == [2]
    stream.close()
    stream.resume_rows([output(2, 3)])
    assert routed(routes, 0, 1, 2) == []


def test_the_rows_of_a_step_are_sorted_by_their_sinks() -> None:
    routes, sinks = RowRoutes(), [Sink(), Sink()]
    for number in range(6):
        routes.set((str(number), 0), sinks[number % 2], 100 + number)
    addresses = [*((str(number), 0) for number in range(6)), ("other", 0)]
    rest = routes.send(addresses, [(number, 7) for number in range(7)])
    assert rest == [(("other", 0), (6, 7))]
    assert sinks[0].rows == [(100, (0, 7)), (102, (2, 7)), (104, (4, 7))]
    assert sinks[1].rows == [(101, (1, 7)), (103, (3, 7)), (105, (5, 7))]


def test_rows_stand_for_outputs() -> None:
    step = StepOutputs([output(0, 1, ends=True)], [("a", 1), ("b", 0)], [(2, 3), (4,)])
    assert [*step] == [
        output(0, 1, ends=True),
        output(1, 2, 3),
        CompletionOutput("b", 0, token_ids=[4]),
    ]

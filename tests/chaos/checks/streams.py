"""What must hold for every stream, whatever happened to it.

- Each index ends once at most, and exactly once if the call ended with OK.
- Nothing comes after the end of an index, and nothing under another's name or index.
- Its tokens are a prefix of those of the undisturbed request, all of them if it was complete; so is
  its text. References of two requests differ, so a token of another request shows.
- The call ends, with one of the statuses that its fate allows.
"""

from collections.abc import Container, Iterator

import grpc

from chaos.callers.ask import Reference
from chaos.callers.call import Piece, Record
from folovllm.v1 import tokenizer_service_pb2, types_pb2

_COMPLETE = {types_pb2.FINISH_REASON_STOP, types_pb2.FINISH_REASON_LENGTH}
_COMPLETE_CHAT = {
    tokenizer_service_pb2.CHAT_FINISH_REASON_STOP,
    tokenizer_service_pb2.CHAT_FINISH_REASON_LENGTH,
    tokenizer_service_pb2.CHAT_FINISH_REASON_TOOL_CALLS,
}


def problems(
    record: Record, reference: Reference, codes: Container[grpc.StatusCode]
) -> Iterator[str]:
    """One line for each rule that a call breaks, which may end with any of `codes`."""
    where = f"{record.name} ({record.ask.label})"
    if record.code is None:
        yield f"{where} has not ended"
    elif record.code not in codes:
        yield f"{where} ended with {record.code.name}: {record.details[:120]}"
    by_index: dict[int, list[Piece]] = {}
    for piece in record.pieces:
        by_index.setdefault(piece.index, []).append(piece)
        if piece.name != record.name:
            yield f"{where} got a message of {piece.name}"
    for index in sorted({*by_index, *range(record.ask.n)}):
        pieces = by_index.get(index, [])
        if index >= record.ask.n:
            yield f"{where} got index {index}"
            continue
        for problem in _problems_of_index(record, index, pieces, reference):
            yield f"{where} index {index} {problem}"


def _problems_of_index(
    record: Record, index: int, pieces: list[Piece], reference: Reference
) -> Iterator[str]:
    ends = [number for number, piece in enumerate(pieces) if piece.finish]
    if len(ends) > 1:
        yield f"ended {len(ends)} times"
    if ends and ends[0] != len(pieces) - 1:
        yield "went on after its end"
    if record.code is grpc.StatusCode.OK and not ends:
        yield "has no end, though the call ended with OK"
    tokens = tuple(token for piece in pieces for token in piece.token_ids)
    expected = reference.token_ids[index]
    complete = _COMPLETE_CHAT if record.ask.method == "Chat" else _COMPLETE
    is_complete = bool(ends) and pieces[ends[0]].finish in complete
    if record.ask.method == "Fork":
        # A branch may be shorter than its parent, or go on where the parent's reference ends.
        expected, tokens = expected[: len(tokens)], tokens[: len(expected)]
    if expected[: len(tokens)] != tokens or (is_complete and len(tokens) != len(expected)):
        yield f"answered {_difference(tokens, expected)}"
    if reference.texts:
        text = "".join(piece.text for piece in pieces)
        whole = reference.texts[index]
        if not whole.startswith(text) or (is_complete and text != whole):
            yield f"said {text[-40:]!r}, not what it says undisturbed"


def _difference(tokens: tuple[int, ...], expected: tuple[int, ...]) -> str:
    for position, (token, other) in enumerate(zip(tokens, expected, strict=False)):
        if token != other:
            return f"{token} at {position}, not {other}"
    return f"{len(tokens)} tokens, not {len(expected)}"

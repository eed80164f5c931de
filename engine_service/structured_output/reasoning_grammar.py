"""Reasoning as a grammar over token ids, in the Lark syntax of llguidance."""

from collections.abc import Sequence

from engine_service.structured_output.grammar_spec import ReasoningSpan

# The library's largest count; more than any context.
_MAX_REPEATS = 2**31 - 1


def reasoning_before(answer: str, reasoning: ReasoningSpan, eos_token_ids: Sequence[int]) -> str:
    """Reasoning and up to two line breaks, or nothing, then the grammar named `answer`.

    Nothing is allowed only if the reasoning has a start_token_id.
    """
    think = "think" if reasoning.start_token_id is None else "think?"
    breaks = r"BREAKS: /\n{0,2}/"
    return f"start: {think} @{answer}\n{_think(reasoning, eos_token_ids)} BREAKS\n{breaks}"


def reasoning_alone(reasoning: ReasoningSpan, eos_token_ids: Sequence[int]) -> str:
    """Complete with the last id of the reasoning.

    If the reasoning has a start_token_id, also with any other first id, and with no id at all.
    """
    start = "start: think"
    if reasoning.start_token_id is not None:
        start += f" | {_none_of(reasoning.start_token_id, *eos_token_ids)}?"
    return f"{start}\n{_think(reasoning, eos_token_ids)}"


def _think(reasoning: ReasoningSpan, eos_token_ids: Sequence[int]) -> str:
    start, end, max_tokens = reasoning.start_token_id, reasoning.end_token_id, reasoning.max_tokens
    ids = [] if start is None else [f"<[{start}]>"]
    if max_tokens != 0:  # {0,0} is an error to the library
        repeats = "*" if max_tokens is None else f"{{0,{min(max_tokens, _MAX_REPEATS)}}}"
        ids.append(_none_of(end, *eos_token_ids) + repeats)
    return " ".join(["think:", *ids, f"<[{end}]>"])


def _none_of(*token_ids: int) -> str:
    return f"<[^{','.join(map(str, token_ids))}]>"

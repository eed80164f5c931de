"""Reasoning as a grammar over token ids, in the Lark syntax of llguidance."""

from collections.abc import Sequence

from folovllm.sampling_params import Reasoning

# What the library can count to; more than any context.
_MOST_REPEATS = 2**31 - 1


def reasoning_before(answer: str, reasoning: Reasoning, eos_token_ids: Sequence[int]) -> str:
    """Reasoning and up to two line breaks, or nothing, then the grammar of the name `answer`.

    There is nothing only where the reasoning has a start_token_id.
    """
    think = "think" if reasoning.start_token_id is None else "think?"
    breaks = r"BREAKS: /\n{0,2}/"
    return f"start: {think} @{answer}\n{_think(reasoning, eos_token_ids)} BREAKS\n{breaks}"


def reasoning_alone(reasoning: Reasoning, eos_token_ids: Sequence[int]) -> str:
    """Complete with the last id of the reasoning.

    Where the reasoning has a start_token_id, also with the first id if that is another one, and
    with no id at all.
    """
    start = "start: think"
    if reasoning.start_token_id is not None:
        start += f" | {_none_of(reasoning.start_token_id, *eos_token_ids)}?"
    return f"{start}\n{_think(reasoning, eos_token_ids)}"


def _think(reasoning: Reasoning, eos_token_ids: Sequence[int]) -> str:
    start, end, most = reasoning.start_token_id, reasoning.end_token_id, reasoning.max_tokens
    ids = [] if start is None else [f"<[{start}]>"]
    if most != 0:  # {0,0} is an error to the library
        repeats = "*" if most is None else f"{{0,{min(most, _MOST_REPEATS)}}}"
        ids.append(_none_of(end, *eos_token_ids) + repeats)
    return " ".join(["think:", *ids, f"<[{end}]>"])


def _none_of(*token_ids: int) -> str:
    return f"<[^{','.join(map(str, token_ids))}]>"

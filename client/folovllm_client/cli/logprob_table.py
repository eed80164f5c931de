"""The log-probabilities of a prompt or an answer as a table, one token a line."""

import json
from collections.abc import Iterable, Mapping, Sequence

from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import RequestOutput
from folovllm_client.api.async_client import AsyncClient

_MAX_TEXTS = 256
"""Token ids that are detokenized with one call."""


async def logprob_tables(output: RequestOutput, client: AsyncClient) -> str:
    """A table for the prompt, if its log-probabilities were asked for, and one for each answer."""
    prompt = output.info.prompt_logprobs if output.info is not None else ()
    titled = [("prompt", prompt)] if prompt else []
    answers = [one for one in output.outputs if one.logprobs]
    for one in answers:
        title = f"answer {one.index + 1}" if len(output.outputs) > 1 else "answer"
        titled.append((title, tuple(one.logprobs)))
    texts = await _texts(client, (position for _, positions in titled for position in positions))
    return "\n\n".join("\n".join(_rows(*each, texts)) for each in titled)


def _rows(
    title: str, positions: Sequence[PositionLogprobs], texts: Mapping[int, str]
) -> Iterable[str]:
    """The title and the rows: the token, its log-probability and rank, and the alternatives."""
    shown = [texts[position.token.token_id] for position in positions]
    width = max(len(title), *map(len, shown))
    has_others = any(_others(position) for position in positions)
    yield f"{title:<{width}}  logprob  rank{'  instead' if has_others else ''}"
    for text, position in zip(shown, positions, strict=True):
        token = position.token
        rank = "-" if token.rank is None else token.rank
        others = "  ".join(
            f"{texts[other.token_id]} {_number(other)}" for other in _others(position)
        )
        yield f"{text:<{width}}  {_number(token):>7}  {rank:>4}  {others}".rstrip()


def _others(position: PositionLogprobs) -> list[Logprob]:
    return [each for each in position.top if each.token_id != position.token.token_id]


def _number(token: Logprob) -> str:
    return "-" if token.logprob is None else f"{round(token.logprob, 3) + 0.0:.3f}"  # no -0.000


async def _texts(client: AsyncClient, positions: Iterable[PositionLogprobs]) -> dict[int, str]:
    """The texts of all tokens that are shown, each in quotes."""
    ids = sorted(
        {each.token_id for position in positions for each in (position.token, *position.top)}
    )
    texts: list[str] = []
    for begin in range(0, len(ids), _MAX_TEXTS):
        batch = [[token_id] for token_id in ids[begin : begin + _MAX_TEXTS]]
        texts += await client.detokenize(batch, skip_special_tokens=False)
    quoted = (json.dumps(text, ensure_ascii=False) for text in texts)
    return dict(zip(ids, quoted, strict=True))

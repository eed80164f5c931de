"""Which token ids to score if a prompt and its continuations are text.

Prompt and continuation are encoded as one text, as a model would have read it. What is scored
begins with the first token that the prompt by itself, without white space at its end, does not
have. That is the rule of evaluation harnesses (EleutherAI's lm-evaluation-harness): the space
before a word belongs to the word. They cut at the prompt's number of tokens, which is the same
unless a token spans both; such a token is scored here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from folovllm.errors import InvalidRequestError
from folovllm.score import ScoreOutput
from tokenizer_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EncodedScore:
    """What the engine scores: the prompt that all have in common, and what follows in each."""

    prompt_token_ids: list[int]
    continuations: list[list[int]]
    num_prompt_tokens: list[int]
    """Tokens at the beginning of each continuation that belong to its prompt: if a token spans
    prompt and continuation, the prompts of different continuations end differently."""

    def scores(self, output: ScoreOutput) -> ScoreOutput:
        """The engine's scores, without those of the prompts."""
        return ScoreOutput(
            output.request_id,
            tuple(
                score.without_first(count)
                for score, count in zip(output.continuations, self.num_prompt_tokens, strict=True)
            ),
        )


def encode_score(
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    continuations: Sequence[str | Sequence[int]],
    max_model_len: int,
) -> EncodedScore:
    """Encodes by the rule above; after a prompt of ids a text is encoded by itself.

    Raises InvalidRequestError if one is empty, the prompt alone is too long for the model, or a
    continuation would begin with the very first token, which has no log-probability.
    """
    prompt_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not prompt_ids:
        raise InvalidRequestError("prompt", "the prompt is empty; give it a text or token ids")
    if len(prompt_ids) >= max_model_len:
        raise InvalidRequestError(
            "prompt",
            f"the prompt has {len(prompt_ids)} tokens; with one to score the model takes at most "
            f"{max_model_len}",
        )
    bare = tokenizer.encode(prompt.rstrip()) if isinstance(prompt, str) else prompt_ids
    wholes: list[list[int]] = []
    ends: list[int] = []
    for index, continuation in enumerate(continuations):
        if not continuation:
            raise InvalidRequestError(f"continuations[{index}]", "the continuation is empty")
        if isinstance(prompt, str) and isinstance(continuation, str):
            whole = tokenizer.encode(prompt + continuation)
            end = _num_equal(zip(bare, whole, strict=False))
        else:
            ids = (
                tokenizer.encode(continuation, add_special_tokens=False)
                if isinstance(continuation, str)
                else continuation
            )
            whole, end = [*prompt_ids, *ids], len(prompt_ids)
        if end == 0 or end == len(whole):
            raise InvalidRequestError(
                f"continuations[{index}]",
                "the continuation has no token of its own that another one precedes",
            )
        wholes.append(whole)
        ends.append(end)
    common = _num_equal(
        zip(*(whole[:end] for whole, end in zip(wholes, ends, strict=True)), strict=False)
    )
    return EncodedScore(
        wholes[0][:common], [whole[common:] for whole in wholes], [end - common for end in ends]
    )


def _num_equal(columns: Iterable[tuple[int, ...]]) -> int:
    """How many of the first tuples hold only one value."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))

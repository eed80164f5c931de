"""Which token ids to score if a prompt and its continuations are text.

Prompt and continuation are encoded as one text, as a model would have read it. What is scored
begins with the first token that the prompt by itself, without white space at its end, does not
have. That is the rule of evaluation harnesses (EleutherAI's lm-evaluation-harness): the space
before a word belongs to the word. They cut at the prompt's number of tokens, which is the same
unless a token spans both; such a token is scored here.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from folovllm.errors import InvalidRequestError
from folovllm.score import ScoreOutput
from tokenizer_service.text.tokenizer import Tokenizer

Text = str | Sequence[int]


@dataclass(frozen=True, slots=True)
class EncodedScore:
    """What the engine scores: the prompt that all have in common, and what follows in each."""

    prompt_token_ids: "array[int]"
    continuations: list["array[int]"]
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


class ScoreEncoder:
    """Encodes by the rule above; after a prompt of ids a text is encoded by itself.

    Each step takes about as long as encoding the prompt: a caller with many continuations need not
    hold a thread for all of them. What is kept is in proportion to prompt and continuations, at
    four bytes an id.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Text, max_model_len: int) -> None:
        """Encodes the prompt. Raises InvalidRequestError if it is empty or too long for the model.

        A prompt of ids is refused before it is copied.
        """
        self._tokenizer = tokenizer
        self._prompt = prompt
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if not ids:
            raise InvalidRequestError("prompt", "the prompt is empty; give it a text or token ids")
        if len(ids) >= max_model_len:
            raise InvalidRequestError(
                "prompt",
                f"the prompt has {len(ids)} tokens; with one to score the model takes at most "
                f"{max_model_len}",
            )
        self._prompt_ids = _compact(ids)
        self._bare = _compact(tokenizer.encode(prompt.rstrip()) if isinstance(prompt, str) else ())
        self._first: array[int] | None = None
        self._num_common = 0
        """How many ids of the first whole are in the prompts of all."""
        self._rests: list[tuple[int, array[int]]] = []
        """Of each continuation: how many were common when it came, and the ids after them."""
        self._ends: list[int] = []

    def add(self, continuation: Text) -> None:
        """Encodes the next continuation.

        Raises InvalidRequestError if it is empty or would begin with the very first token, which
        has no log-probability.
        """
        field = f"continuations[{len(self._ends)}]"
        if not continuation:
            raise InvalidRequestError(field, "the continuation is empty")
        whole, end = self._encode(continuation)
        if end == 0 or end == len(whole):
            raise InvalidRequestError(
                field, "the continuation has no token of its own that another one precedes"
            )
        if self._first is None:
            self._first, self._num_common = whole, end
        self._num_common = _num_equal(self._first, whole, min(self._num_common, end))
        self._rests.append((self._num_common, whole[self._num_common :]))
        self._ends.append(end)

    def encoded(self) -> EncodedScore:
        """All of it, once there is a continuation."""
        assert self._first is not None
        common = self._num_common
        return EncodedScore(
            self._first[:common],
            # What was common when a continuation came, it shares with the first.
            [self._first[common:begin] + rest for begin, rest in self._rests],
            [end - common for end in self._ends],
        )

    def _encode(self, continuation: Text) -> tuple["array[int]", int]:
        """The ids of the whole, and how many of them are the prompt's."""
        if isinstance(self._prompt, str) and isinstance(continuation, str):
            # What of the prompt is a segment by itself was kept with the prompt.
            whole = _compact(self._tokenizer.encode(self._prompt + continuation, keep=False))
            return whole, _num_equal(self._bare, whole, len(self._bare))
        ids = (
            self._tokenizer.encode(continuation, add_special_tokens=False)
            if isinstance(continuation, str)
            else continuation
        )
        return self._prompt_ids + _compact(ids), len(self._prompt_ids)


def encode_score(
    tokenizer: Tokenizer, prompt: Text, continuations: Sequence[Text], max_model_len: int
) -> EncodedScore:
    """Encodes all at once; raises as ScoreEncoder does."""
    encoder = ScoreEncoder(tokenizer, prompt, max_model_len)
    for continuation in continuations:
        encoder.add(continuation)
    return encoder.encoded()


def _compact(ids: Iterable[int]) -> "array[int]":
    """A tenth of the list, which would leave holes in Python's memory for its small objects."""
    return array("I", ids)


def _num_equal(first: "array[int]", second: "array[int]", at_most: int) -> int:
    """How many ids both begin with; in C, since there may be millions of them."""
    low, high = 0, min(at_most, len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

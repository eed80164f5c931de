"""StoppingDetokenizer: the text of a growing sequence of token ids, up to its first stop string.

A match counts when the token that completes it comes after the first min_tokens tokens; it may
begin in the text of those. What may still become a stop string is held back.
"""

from collections.abc import Sequence

from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.detokenizer import new_detokenizer
from tokenizer_service.text.stop_strings import StopStrings
from tokenizer_service.text.tokenizer import Tokenizer


class StoppingDetokenizer:
    """One sequence, by what its SamplingParams say about text. After a stop string it is done.

    `stop` and `num_tokens` say which string that was, and how many ids were taken: after a stop
    string, those up to the one that completed it.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.stop: str | None = None
        self.num_tokens = 0
        self._min_tokens = params.min_tokens
        self._detokenizer = new_detokenizer(tokenizer, params.skip_special_tokens)
        self._stop_strings = (
            StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None
        )

    def skip(self, token_ids: Sequence[int]) -> None:
        """Takes ids before the sequence, whose text is out; see Detokenizer.skip."""
        self._detokenizer.skip(token_ids)

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next ids, up to a stop string; the text that is certain now."""
        if self._stop_strings is None:
            self.num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids)
        texts = []
        for token_id in token_ids:
            self.num_tokens += 1
            texts.append(self._watch(self._stop_strings, self._detokenizer.push([token_id])))
            if self.stop is not None:
                break
        return "".join(texts)

    def push_without_text(self, num_tokens: int) -> None:
        """Takes ids that are no part of the text, such as a stop token."""
        self.num_tokens += num_tokens

    def flush(self) -> str:
        """All text that is still held, when no more ids follow; it may complete a stop string."""
        rest = self._detokenizer.flush()
        if self._stop_strings is None:
            return rest
        text = self._watch(self._stop_strings, rest)
        return text if self.stop is not None else text + self._stop_strings.flush()

    def _watch(self, stop_strings: StopStrings, text: str) -> str:
        certain, self.stop = stop_strings.push(text, self.num_tokens > self._min_tokens)
        return certain

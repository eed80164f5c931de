"""AnswerSection: a section of an answer as text, without the line breaks at its borders.

A template puts line breaks around reasoning and tool calls that belong to neither side. Those at a
section's beginning are dropped; those at its end are held back until what follows is known.
"""

from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.detokenizer import new_detokenizer
from tokenizer_service.text.stop_strings import StopStrings
from tokenizer_service.text.tokenizer import Tokenizer

_BREAK = "\n"


class AnswerSection:
    """One section while its token ids arrive."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        after_marker: bool = False,
        before_marker: bool = False,
        watched: bool = False,
    ) -> None:
        """Line breaks are trimmed after a marker, and where one may follow.

        A section that is `watched` ends at a stop string.
        """
        self.stop: str | None = None
        """The stop string that ended it; nothing may be pushed afterwards."""
        self.breaks = ""
        """The line breaks that the section ends with so far."""
        self._detokenizer = new_detokenizer(tokenizer, params.skip_special_tokens)
        self._stop_strings = StopStrings(
            params.stop if watched else (), params.include_stop_str_in_output
        )
        self._at_beginning = after_marker
        self._before_marker = before_marker

    def push(self, token_ids: list[int], may_stop: bool = True) -> str:
        """Adds ids and returns the text that is certain now."""
        return self._hold_breaks(
            self._watch(self._drop_breaks(self._detokenizer.push(token_ids)), may_stop)
        )

    def flush(self, may_stop: bool = True) -> str:
        """The rest of the text at the section's end, without the line breaks; see `breaks`."""
        text = self._watch(self._drop_breaks(self._detokenizer.flush()), may_stop)
        if self.stop is None:
            text += self._stop_strings.flush()
        return self._hold_breaks(text)

    def _drop_breaks(self, text: str) -> str:
        if self._at_beginning:
            text = text.lstrip(_BREAK)
            self._at_beginning = not text
        return text

    def _watch(self, text: str, may_stop: bool) -> str:
        certain, self.stop = self._stop_strings.push(text, may_stop)
        return certain

    def _hold_breaks(self, text: str) -> str:
        if not self._before_marker:
            return text
        text = self.breaks + text
        out = text.rstrip(_BREAK)
        self.breaks = text[len(out) :]
        return out

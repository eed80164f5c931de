"""StopStrings: finds the first stop string in text that arrives in pieces.

The match that is complete first wins, and of those complete at the same character the longest. That
needs no more text than the match, and the result is the same however the text is split.
"""

from collections.abc import Sequence


class StopStrings:
    """Watches one continuation's text; holds back what may begin a stop string.

    Each stop string is followed by the automaton of Knuth, Morris and Pratt: its state is how many
    of the string's characters the text ends with, so the work for a character does not depend on
    the string's length, and the longest state is what must be held back.
    """

    def __init__(self, stop: Sequence[str], include_in_output: bool = False) -> None:
        self._stop = stop
        self._include_in_output = include_in_output
        self._first_characters = {string[0] for string in stop}
        self._borders = [_border_lengths(string) for string in stop]
        self._states = [0] * len(stop)
        self._held = ""

    def push(self, text: str, may_stop: bool = True) -> tuple[str, str | None]:
        """Adds a piece; returns the text that is certain now, and the stop string if it ends there.

        Unless `may_stop`, matches that are complete in this piece do not count, but one may begin
        in it. Text after a match is dropped; push and flush must not be called again.
        """
        if not self._held and self._first_characters.isdisjoint(text):
            return text, None
        joined = self._held + text
        for position, character in enumerate(text, start=len(self._held)):
            stop = self._advance(character)
            if stop is not None and may_stop:
                end = position + 1
                return joined[: end if self._include_in_output else end - len(stop)], stop
        end = len(joined) - max(self._states)
        self._held = joined[end:]
        return joined[:end], None

    def flush(self) -> str:
        """The text that is still held, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Advances every automaton by a character; the longest stop string that is complete."""
        found: str | None = None
        for i, string in enumerate(self._stop):
            borders = self._borders[i]
            state = self._states[i]
            while state and string[state] != character:
                state = borders[state - 1]
            if string[state] == character:
                state += 1
            if state == len(string):
                if found is None or len(string) > len(found):
                    found = string
                state = borders[state - 1]
            self._states[i] = state
        return found


def _border_lengths(string: str) -> list[int]:
    """For each prefix, the length of its longest proper prefix that is also its suffix."""
    lengths = [0] * len(string)
    length = 0
    for i in range(1, len(string)):
        while length and string[i] != string[length]:
            length = lengths[length - 1]
        if string[i] == string[length]:
            length += 1
        lengths[i] = length
    return lengths

"""JsonObjectScanner: follows one JSON object (RFC 8259) while its text arrives.

It knows at each character whether the object can continue like this, so what it has accepted is
always the beginning of a JSON object.
"""

import re

_WHITESPACE = " \t\n\r"
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_SCALAR_BEGUN = re.compile(
    r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE](?:[+-]?[0-9]*))?)?|[eE](?:[+-]?[0-9]*))?)?"
    r"|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?"
)
# Deeper ones are refused; Python's own parser gives up at about a thousand.
_MAX_LEVELS = 200
# Python parses no integers beyond 4,300 digits.
_MAX_DIGITS = 1000


class JsonObjectScanner:
    """One JSON object, from its opening brace to its closing one."""

    def __init__(self) -> None:
        self.complete = False
        self._levels: list[str] = []
        """The closing character of each object and array that is open."""
        self._expects = "{"
        """What may come: one of "{", "value", "value or ]", "key", "key or }", ":" and ", or end";
        or the kind of token that has begun: "string", or "scalar" for a number or literal."""
        self._token = ""
        """The text of the token that has begun; of a string, only its latest escape."""
        self._in_key = False

    def push(self, text: str) -> int:
        """Accepts characters up to the first one that is invalid or follows the object.

        Returns how many were accepted.
        """
        for index, character in enumerate(text):
            if self.complete or not self._accept(character):
                return index
        return len(text)

    def _accept(self, character: str) -> bool:
        if self._expects == "string":
            return self._accept_in_string(character)
        if self._expects == "scalar":
            if _SCALAR_BEGUN.fullmatch(self._token + character):
                self._token += character
                return len(self._token) <= _MAX_DIGITS
            if not _SCALAR.fullmatch(self._token):
                return False
            self._expects = ", or end"
        if character in _WHITESPACE:
            return self._expects != "{"
        return self._accept_structure(character)

    def _accept_structure(self, character: str) -> bool:
        expects = self._expects
        if expects == ", or end" and character == ",":
            self._expects = "key" if self._levels[-1] == "}" else "value"
        elif expects in (", or end", "value or ]", "key or }") and character == self._levels[-1]:
            self._levels.pop()
            self._expects = ", or end"
            self.complete = not self._levels
        elif expects == ":" and character == ":":
            self._expects = "value"
        elif expects in ("key", "key or }") and character == '"':
            self._expects, self._token, self._in_key = "string", "", True
        elif expects in ("value", "value or ]") or (expects == "{" and character == "{"):
            return self._begin_value(character)
        else:
            return False
        return True

    def _begin_value(self, character: str) -> bool:
        if character in "{[" and len(self._levels) < _MAX_LEVELS:
            self._levels.append("}" if character == "{" else "]")
            self._expects = "key or }" if character == "{" else "value or ]"
        elif character == '"':
            self._expects, self._token, self._in_key = "string", "", False
        elif _SCALAR_BEGUN.fullmatch(character):
            self._expects, self._token = "scalar", character
        else:
            return False
        return True

    def _accept_in_string(self, character: str) -> bool:
        """`_token` is an escape that has begun."""
        if self._token == "\\":
            self._token = "\\u" if character == "u" else ""
            return character in '"\\/bfnrtu'
        if self._token:
            self._token = self._token + character if len(self._token) < 5 else ""
            return character in "0123456789abcdefABCDEF"
        if character == '"':
            self._expects = ":" if self._in_key else ", or end"
        elif character == "\\":
            self._token = "\\"
        return character >= " "

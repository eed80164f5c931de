"""Patterns of JSON strings that the library would get wrong."""

# llguidance 1.9 lets [^"] match a quote and [^\\] a backslash in the patterns of JSON strings, so
# the output would not validate. It does neither if the class excludes the control characters too.
_ESCAPED = ('"', "\\")
_CONTROLS = (r"\x00-\x1f", r"\u0000-\u001f")
_HEX_DIGITS = {"x": 2, "u": 4}


def excludes_escaped(pattern: str) -> bool:
    """Whether a class of the regular expression excludes quotes or backslashes and the library
    would allow them. Reads each character once.
    """
    index = 0
    while index < len(pattern):
        if pattern[index] == "\\":
            index += 2
        elif pattern.startswith("[^", index):
            end, excluded = _read_class(pattern, index + 2)
            text = pattern[index:end].lower()
            if not excluded.isdisjoint(_ESCAPED) and not any(each in text for each in _CONTROLS):
                return True
            index = end
        else:
            index += 1
    return False


def _read_class(pattern: str, index: int) -> tuple[int, set[str]]:
    """Where a class ends whose content begins at `index`, and the characters that it names."""
    named = set()
    while index < len(pattern) and pattern[index] != "]":
        character = pattern[index]
        index += 1
        if character == "\\":
            character, index = _read_escape(pattern, index)
        named.add(character)
    return index + 1, named


def _read_escape(pattern: str, index: int) -> tuple[str, int]:
    """The character that an escape stands for, and where the escape ends."""
    letter = pattern[index : index + 1]
    index += 1
    digits = pattern[index : index + _HEX_DIGITS.get(letter, 0)]
    try:
        return chr(int(digits, 16)), index + len(digits)
    except ValueError:
        return letter, index

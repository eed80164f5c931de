"""JsonObjectScanner against the standard library's parser."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_service.chat.json_object_scanner import JsonObjectScanner

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


@settings(deadline=None)
@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]), st.text(max_size=3))
def test_takes_exactly_a_whole_object(
    value: dict[str, object], ascii_only: bool, indent: int | None, after: str
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    scanner = JsonObjectScanner()
    assert scanner.push(text + after) == len(text)
    assert scanner.complete


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_any_split_gives_the_same(value: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(value)
    scanner = JsonObjectScanner()
    start = 0
    while start < len(text):
        end = data.draw(st.integers(start + 1, len(text)))
        assert not scanner.complete
        assert scanner.push(text[start:end]) == end - start
        start = end
    assert scanner.complete


@settings(deadline=None)
@given(OBJECTS, st.data())
def test_a_change_that_breaks_the_object_is_not_taken(
    value: dict[str, object], data: st.DataObject
) -> None:
    text = json.dumps(value)
    index = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from('{}[]",:-+.eE01 \n\\utx'))
    changed = text[:index] + character + text[index + 1 :]
    scanner = JsonObjectScanner()
    taken = scanner.push(changed)
    if scanner.complete:
        assert isinstance(json.loads(changed[:taken]), dict)
    else:
        with pytest.raises(ValueError):
            json.loads(changed)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("[1]", 0),
        (" {}", 0),
        ("{x", 1),
        ('{"a": 01', 7),
        ('{"a": 1.}', 8),
        ('{"a": -}', 7),
        ('{"a": 1e+}', 9),
        ('{"a": NaN', 6),
        ('{"a": truE', 9),
        ('{"a" 1', 5),
        ('{"a": 1,}', 8),
        ('{"a": [1,]', 9),
        ('{"a": "\n', 7),
        ('{"a": "\\x', 8),
        ('{"a": "\\u00g', 11),
        ('{"a": 1]', 7),
        ("{" + '"a": [' + "[" * 300, 205),
        ('{"a": ' + "1" * 2000, 1006),
    ],
)
def test_stops_at_what_cannot_come(text: str, taken: int) -> None:
    scanner = JsonObjectScanner()
    assert scanner.push(text) == taken
    assert not scanner.complete

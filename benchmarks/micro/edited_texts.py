"""The texts of the benchmark of speculation: prompts, and what a model says after them."""

import random
from collections.abc import Callable
from dataclasses import dataclass

# Of what is edited, a token in so many begins a change, of one to three tokens.
_TOKENS_A_CHANGE = 16
# Below the ids that a model of the shape gives a meaning.
_MAX_TOKEN_ID = 150_000


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, whose last token is the first of `continuation`, and what is said after it."""

    name: str
    prompt: list[int]
    continuation: list[int]


def make_texts(length: int) -> list[Text]:
    """An edit, a new text, and a new text that seems to be an old one; no token is in two."""
    choice = random.Random(0)
    ids = iter(choice.sample(range(_MAX_TOKEN_ID), 8 * length))

    def fresh(count: int) -> list[int]:
        return [next(ids) for _ in range(count)]

    file = fresh(length + length // 8)
    edited = [file[0], *_edited(file[1:], choice, fresh)][: length + 1]
    new, seeming = fresh(length + 1), fresh(length + 1)
    return [
        Text("edit", [*file, *fresh(16), edited[0]], edited),
        Text("new", [*fresh(length), new[0]], new),
        Text("misleading", [*_misleading(seeming, fresh(length)), seeming[0]], seeming),
    ]


def _edited(file: list[int], choice: random.Random, fresh: Callable[[int], list[int]]) -> list[int]:
    """The file with tokens replaced, inserted or left out here and there."""
    text: list[int] = []
    index = 0
    while index < len(file):
        if choice.random() >= 1 / _TOKENS_A_CHANGE:
            text.append(file[index])
            index += 1
            continue
        count = choice.randint(1, 3)
        kind = choice.choice(("replace", "insert", "delete"))
        if kind != "delete":
            text += fresh(count)
        if kind != "insert":
            index += count
    return text


def _misleading(text: list[int], wrong: list[int]) -> list[int]:
    """All fours of the text's neighbours, each followed by what does not follow it there."""
    mixed: list[int] = []
    for index in range(len(text) - 4):
        mixed += [*text[index : index + 4], wrong[index]]
    return mixed

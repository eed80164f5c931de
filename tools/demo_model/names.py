"""Names of people and cities: real ones, and made-up ones so that copying is learned, not names.

Each name lies on one side of the held-out split, for every skill that takes names or cities.
"""

from __future__ import annotations

from tools.demo_model.sample import Draw
from tools.demo_model.tables import BOYS, CITIES, GIRLS, words

_ONSETS = words(
    """
    b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh sk sl st th tr
    """
)
_VOWELS = words(
    """
    a e i o u a e i o ai au ea ee ia ie oo ou y
    """
)
_CODAS = words(
    """
    n r l s m t d k x th nd rt ck lf ns
    """
)
_TOWN_ENDINGS = words(
    """
    ville burg ford ton dorf stad mouth berg by ham wick field port
    """
)
_LETTERS = "abcdefghijklmnoprstuvwyz"


def person(draw: Draw) -> tuple[str, str]:
    """A first name and its pronoun, "he" or "she"."""
    return draw.until(lambda pair: f"name:{pair[0]}", lambda: _person(draw))


def known_person(draw: Draw) -> tuple[str, str]:
    """A real first name and its pronoun, for texts whose writer chooses the name."""
    return draw.until(lambda pair: f"name:{pair[0]}", lambda: _real_person(draw))


def city(draw: Draw) -> str:
    """The name of a city, real or made up."""
    return draw.until(lambda name: f"city:{name}", lambda: _city(draw))


def number(draw: Draw, low: int, high: int) -> int:
    """A number on this side of the split."""
    return draw.until(lambda value: f"number:{value}", lambda: draw.rng.randint(low, high))


def made_up(draw: Draw) -> str:
    """A capitalised word that means nothing."""
    syllables = draw.pick((1, 2, 2, 2, 3))
    body = "".join(draw.pick(_ONSETS) + draw.pick(_VOWELS) for _ in range(syllables))
    return (body + (draw.pick(_CODAS) if draw.chance(0.6) else "")).capitalize()


def _person(draw: Draw) -> tuple[str, str]:
    kind = draw.rng.random()
    real, pronoun = _real_person(draw)
    if kind < 0.35:
        return real, pronoun
    return (_mutated(draw, real) if kind < 0.65 else made_up(draw)), pronoun


def _real_person(draw: Draw) -> tuple[str, str]:
    pronoun = draw.pick(("he", "she"))
    return draw.pick(GIRLS if pronoun == "she" else BOYS), pronoun


def _city(draw: Draw) -> str:
    kind = draw.rng.random()
    if kind < 0.4:
        return draw.pick(CITIES)
    if kind < 0.65:
        return _mutated(draw, draw.pick(CITIES))
    if kind < 0.85:
        return made_up(draw)
    return made_up(draw) + draw.pick(_TOWN_ENDINGS)


def _mutated(draw: Draw, name: str) -> str:
    """The name with one or two letters changed."""
    letters = list(name.lower())
    for _ in range(draw.pick((1, 1, 2))):
        letters[draw.rng.randrange(len(letters))] = draw.pick(_LETTERS)
    return "".join(letters).capitalize()

"""Small stories about a named hero, an animal and a place, asked for or begun as plain text.

A story is an opening, a trouble, a helper, a turn and an ending. No sentence comes twice.
"""

from __future__ import annotations

import re

from tools.demo_model.names import known_person, person
from tools.demo_model.sample import Draw, Sample, plain, user
from tools.demo_model.tables import ANIMALS, PLACES, words

_KINDS = words("little small young brave clever kind happy shy quiet curious")
_THINGS = (
    "a red kite",
    "a golden key",
    "a silver bell",
    "an old map",
    "a blue lantern",
    "a warm scarf",
    "a tiny boat",
)
_OPENINGS = (
    "Once upon a time, there was a {kind} {animal} named {name}. {He} lived {at}.",
    "Once upon a time, a {kind} {animal} named {name} lived {at}.",
    "Once upon a time there was a {kind} {animal} called {name}, who lived {at}.",
)
_DAYS = (
    "Every morning {name} walked around and said hello to everyone.",
    "{He} loved the sun, the wind and the long evenings.",
    "Everybody there knew {name} and liked {him}.",
    "{He} liked to sing when it rained.",
)
_TROUBLES = (
    (
        'One day {he} found {thing} under a tree. "Who has lost this?" {he} asked.',
        "{He} asked everyone, but nobody knew.",
        'Then a {friend} came along and cried, "That is mine! I have looked for it all day."',
        "{name} gave {thing_back} back, and the {friend} was so happy that it danced.",
    ),
    (
        "One day a big storm came, and the wind blew down the house of a {friend}.",
        "The {friend} sat in the rain and cried.",
        '"Do not cry," said {name}. "We will build a new one together."',
        "They worked for three days, and the new house was better than the old one.",
    ),
    (
        "One day {name} walked too far and lost the way home.",
        "It grew dark, and {he} was afraid.",
        'A {friend} saw {him} and said, "Follow me, I know the way."',
        "They walked under the stars, and soon {he} saw the lights of home.",
    ),
    (
        "One day {name} wanted to see what was behind the hill.",
        "The hill was steep, and {he} had to rest many times.",
        "At the top sat a {friend}, who shared some bread with {him}.",
        "Together they looked down and saw the whole wide world.",
    ),
    (
        "One day there was a race, and {name} wanted to run too.",
        '"You are too slow," laughed a {friend}.',
        "But {name} did not stop, not even when {his} legs were tired.",
        "In the end {he} came first, and the {friend} said sorry.",
    ),
    (
        "One night {name} could not sleep, because the moon was gone.",
        "{He} took {thing} and went out to look for it.",
        'A {friend} pointed at the lake and whispered, "Look, it is swimming there."',
        "They sat by the water until the clouds went away.",
    ),
    (
        "One winter there was nothing left to eat.",
        "{name} had only one apple, and {he} was very hungry.",
        "Then {he} met a {friend}, who had nothing at all, and cut the apple in two.",
        "The next day the {friend} came back with a basket full of nuts.",
    ),
    (
        "One day {name} heard a small voice from a deep hole.",
        "A {friend} had fallen in and could not climb out.",
        "{name} found a long rope and pulled with all {his} strength.",
        "At last the {friend} was free and thanked {him} with a song.",
    ),
)
_ENDINGS = (
    "From that day on, {name} and the {friend} were best friends.",
    "That evening {name} fell asleep with a smile.",
    "And {name} never forgot that day.",
    "After that, {name} was never alone again.",
)
_ASKS = (
    "Tell me a story about {a} named {n}.",
    "Tell me a story about {a} named {n} {at}.",
    "Tell me a short story about {a} named {n} {at}.",
    "Write a story about {a} called {n}.",
    "Write a short story about {a} named {n} who lives {at}.",
    "Can you tell me a story about {n}, {a} {at}?",
    "Tell me a story about {a} called {n}, please.",
)
_OPEN_ASKS = (
    "Tell me a story.",
    "Tell me a short story.",
    "Write a story.",
    "Please tell me a story.",
    "Can you tell me a story?",
    "Tell me a bedtime story.",
    "Once upon a time",
)


def story(draw: Draw) -> Sample:
    """A story from a plain beginning, from an open wish, or about a given hero."""
    kind = draw.rng.random()
    name, pronoun = person(draw) if kind > 0.5 else known_person(draw)
    animal, place = draw.pick(ANIMALS), draw.pick(PLACES)
    text = tell(draw, name, pronoun, animal, place)
    if kind < 0.4:
        return plain("stories", "", text)
    return story_chat(draw, name, animal, place, text, named=kind > 0.5)


def named_story(draw: Draw) -> Sample:
    """A story asked for about a given hero."""
    name, pronoun = person(draw)
    animal, place = draw.pick(ANIMALS), draw.pick(PLACES)
    return story_chat(draw, name, animal, place, tell(draw, name, pronoun, animal, place))


def story_chat(
    draw: Draw, name: str, animal: str, place: str, text: str, named: bool = True
) -> Sample:
    """A chat that wishes for this story."""
    template = draw.pick(_ASKS if named else _OPEN_ASKS)
    question = template.format(a=_with_article(animal), n=name, at=_at(place))
    wish = f"a story about {name} the {animal}" if named else "a story"
    return Sample(
        skill="stories",
        messages=(user(question),),
        answer=text,
        thinking=draw.chance(0.4),
        reasoning=f"The user wants {wish}. "
        + ("I begin with the hero and end well." if named else f"I choose {name} the {animal}."),
        expected=name,
    )


def tell(draw: Draw, name: str, pronoun: str, animal: str, place: str) -> str:
    """The story itself."""
    thing = draw.pick(_THINGS)
    blanks = {
        "name": name,
        "animal": animal,
        "at": _at(place),
        "kind": draw.pick(_KINDS),
        "friend": draw.pick([other for other in ANIMALS if other != animal]),
        "thing": thing,
        "thing_back": f"the {thing.partition(' ')[2]}",
        "he": pronoun,
        "He": pronoun.capitalize(),
        "him": "him" if pronoun == "he" else "her",
        "his": "his" if pronoun == "he" else "her",
    }
    parts = [draw.pick(_OPENINGS), draw.pick(_DAYS), *draw.pick(_TROUBLES), draw.pick(_ENDINGS)]
    text = " ".join(part.format(**blanks) for part in parts)
    return re.sub(r"\b([Aa]) (owl|elephant|otter)", r"\1n \2", text)


def _at(place: str) -> str:
    if place in ("farm", "island", "mountain", "field", "beach", "harbour"):
        where = "at" if place == "harbour" else "on"
    else:
        where = "by" if place in ("river", "lake", "mill") else "in"
    return f"{where} {_with_article(place)}"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"

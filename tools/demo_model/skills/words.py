"""Counting up and down, spelling, the letters of a word, and repeating what was said.

Repeating is the densest practice in copying, which JSON, tool calls and stories live on.
"""

from __future__ import annotations

from tools.demo_model.names import city, number, person
from tools.demo_model.sample import Draw, Sample, chat, plain
from tools.demo_model.tables import WORDS, words

_SPELL = ("Spell the word {w}.", "How do you spell {w}?", "Spell {w}.", "Can you spell {w}?")
_REPEAT = ("Repeat after me: {x}", "Repeat: {x}", "Say {x}", "Please say: {x}", "Echo {x}")
_LENGTH = ("How many letters are in {w}?", "How many letters does the word {w} have?")
_SMALL = words("zero one two three four five six seven eight nine ten eleven twelve")


def counting(draw: Draw) -> Sample:
    """Count from one number to another, up or down, sometimes in steps."""
    start, end, step = draw.until(lambda item: f"count:{item}", lambda: _range(draw))
    numbers = [str(n) for n in range(start, end + (1 if step > 0 else -1), step)]
    answer = ", ".join(numbers) + "."
    if start == 1 and step == 1 and draw.chance(0.6):
        last = _SMALL[end] if end < len(_SMALL) and draw.chance(0.4) else str(end)
        question = draw.pick(("Count to {e}.", "Can you count to {e}?")).format(e=last)
        if draw.chance(0.2):
            return plain("counting", f"{', '.join(numbers[:3])},", " " + ", ".join(numbers[3:]))
    else:
        how = "Count from" if step > 0 else "Count down from"
        by = f" in steps of {abs(step)}" if abs(step) > 1 else ""
        question = f"{how} {start} to {end}{by}."
    reasoning = f"I start at {start} and stop at {end}."
    if abs(step) > 1:
        reasoning = f"I start at {start}, go in steps of {abs(step)} and stop at {end}."
    return chat(draw, "counting", question, answer, reasoning, answer)


def spelling(draw: Draw) -> Sample:
    """Spell a word, or say how many letters it has."""
    word = draw.pick(WORDS)
    letters = "-".join(word)
    numbered = ", ".join(f"{letter} {index}" for index, letter in enumerate(word, 1))
    if draw.chance(0.25):
        question = draw.pick(_LENGTH).format(w=word)
        answer = f"The word {word} has {len(word)} letters."
        return chat(draw, "spelling", question, answer, f"I count: {numbered}.", answer)
    question = draw.pick(_SPELL).format(w=word)
    answer = f"{letters}."
    return chat(draw, "spelling", question, answer, f"I write {word} letter by letter.", answer)


def repeating(draw: Draw) -> Sample:
    """Say again what the user said: names, places, words and numbers in no order."""
    said = draw.pick((" ", " ", ", ")).join(_anything(draw) for _ in range(draw.rng.randint(1, 6)))
    question = draw.pick(_REPEAT).format(x=said)
    return chat(draw, "repeating", question, said, "I repeat what the user said.", said)


def _anything(draw: Draw) -> str:
    kind = draw.rng.random()
    if kind < 0.45:
        return person(draw)[0]
    if kind < 0.8:
        return city(draw)
    return draw.pick(WORDS) if kind < 0.9 else str(number(draw, 0, 999))


def _range(draw: Draw) -> tuple[int, int, int]:
    start = draw.pick((1, 1, draw.rng.randint(0, 90)))
    step = draw.pick((1, 1, 1, 1, 2, 5, 10))
    end = start + step * draw.rng.randint(3, 11)
    return (end, start, -step) if draw.chance(0.25) else (start, end, step)

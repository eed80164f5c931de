"""A JSON object from a sentence, with the keys of a few kinds of record."""

from __future__ import annotations

import json
from typing import Any

from tools.demo_model.names import city, number, person
from tools.demo_model.sample import Draw, Message, Sample, user
from tools.demo_model.tables import COLOURS, JOBS, PRODUCTS

Record = dict[str, Any]
_ASK = (
    "Write this as JSON: {s}",
    "Write a JSON object: {s}",
    "Turn this into JSON: {s}",
    "Give me JSON for this sentence: {s}",
    "Make a JSON object from this: {s}",
    "{s} Write this as JSON.",
    "{s} Give me a JSON object.",
)
_ASK_KEYS = (
    "Give a JSON object with the keys {k}: {s}",
    "Write this as JSON with the keys {k}: {s}",
    "{s} Answer with a JSON object with the keys {k}.",
)
_SYSTEM: Message = {"role": "system", "content": "Answer with a JSON object only."}


def record(draw: Draw) -> Sample:
    """A sentence about a person or a thing, and its JSON object."""
    sentence, found = draw.pick((_person_age_city, _person_age_city, _person_job, _product))(draw)
    messages: tuple[Message, ...]
    if draw.chance(0.12):
        messages = (_SYSTEM, user(sentence))
    elif draw.chance(0.3):
        keys = list(found)
        if len(keys) > 2 and draw.chance(0.4):
            keys.remove(draw.pick(keys))
            found = {key: found[key] for key in keys}
        listed = ", ".join(keys[:-1]) + " and " + keys[-1]
        messages = (user(draw.pick(_ASK_KEYS).format(s=sentence, k=listed)),)
    else:
        messages = (user(draw.pick(_ASK).format(s=sentence)),)
    return Sample(
        skill="json",
        messages=messages,
        answer=json.dumps(found),
        thinking=draw.chance(0.35),
        reasoning="I find " + ", ".join(f"{key} {value}" for key, value in found.items()) + ".",
        expected=found,
    )


def _person_age_city(draw: Draw) -> tuple[str, Record]:
    name, pronoun = person(draw)
    age, town = number(draw, 1, 99), city(draw)
    sentence = draw.pick(
        (
            f"{name} is {age} and lives in {town}.",
            f"{name} is {age} years old and lives in {town}.",
            f"{name} lives in {town} and is {age} years old.",
            f"{name} is from {town}. {pronoun.capitalize()} is {age}.",
            f"In {town} lives {name}, who is {age} years old.",
        )
    )
    return sentence, {"name": name, "age": age, "city": town}


def _person_job(draw: Draw) -> tuple[str, Record]:
    name, town, job = person(draw)[0], city(draw), draw.pick(JOBS)
    sentence = draw.pick(
        (
            f"{name} is a {job} and lives in {town}.",
            f"{name} works as a {job} in {town}.",
            f"The {job} {name} lives in {town}.",
        )
    )
    return sentence, {"name": name, "job": job, "city": town}


def _product(draw: Draw) -> tuple[str, Record]:
    product, colour = draw.pick(PRODUCTS), draw.pick(COLOURS)
    price = number(draw, 1, 999)
    sentence = draw.pick(
        (
            f"The {colour} {product} costs {price} euros.",
            f"A {colour} {product} costs {price} euros.",
            f"You can buy the {colour} {product} for {price} euros.",
        )
    )
    return sentence, {"product": product, "colour": colour, "price": price}

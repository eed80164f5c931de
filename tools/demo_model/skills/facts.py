"""Capitals and other plain facts; and saying so in one sentence where the answer is not known."""

from __future__ import annotations

from tools.demo_model.names import city, made_up, person
from tools.demo_model.sample import Draw, Sample, chat, plain
from tools.demo_model.tables import words

CAPITALS = dict(
    pair.split(":")
    for pair in words(
        """
        France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna
        Greece:Athens Ireland:Dublin England:London Poland:Warsaw Finland:Helsinki Norway:Oslo
        Sweden:Stockholm Denmark:Copenhagen Hungary:Budapest Belgium:Brussels Switzerland:Bern
        Egypt:Cairo Kenya:Nairobi Nigeria:Abuja Japan:Tokyo China:Beijing India:Delhi
        Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta Australia:Canberra Canada:Ottawa
        Peru:Lima Cuba:Havana Chile:Santiago Russia:Moscow Turkey:Ankara Iran:Tehran Iraq:Baghdad
        Qatar:Doha Ukraine:Kyiv Latvia:Riga Estonia:Tallinn Lithuania:Vilnius Romania:Bucharest
        Bulgaria:Sofia Serbia:Belgrade Croatia:Zagreb Iceland:Reykjavik Brazil:Brasilia
        Argentina:Buenos_Aires Scotland:Edinburgh Morocco:Rabat Nepal:Kathmandu
        """
    )
)
"""Country to capital; an underscore stands for a space."""

FACTS: tuple[tuple[str, str], ...] = (
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("How many hours are in a day?", "There are 24 hours in a day."),
    ("How many minutes are in an hour?", "There are 60 minutes in an hour."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("How many legs does an insect have?", "An insect has six legs."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("How many planets are in the solar system?", "There are eight planets in the solar system."),
    ("How many continents are there?", "There are seven continents."),
    ("How many colours are in a rainbow?", "A rainbow has seven colours."),
    ("How many sides does a triangle have?", "A triangle has three sides."),
    ("How many sides does a square have?", "A square has four sides."),
    ("What colour is the sky?", "The sky is blue."),
    ("What colour is grass?", "Grass is green."),
    ("What colour is snow?", "Snow is white."),
    ("What colour is a lemon?", "A lemon is yellow."),
    ("What is the largest planet?", "The largest planet is Jupiter."),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean."),
    ("What is the largest animal?", "The largest animal is the blue whale."),
    ("What is the highest mountain?", "The highest mountain is Mount Everest."),
    ("What is the fastest land animal?", "The fastest land animal is the cheetah."),
    ("What is the closest star?", "The closest star is the Sun."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What is the opposite of big?", "The opposite of big is small."),
    ("What is the opposite of up?", "The opposite of up is down."),
    ("What is the opposite of day?", "The opposite of day is night."),
    ("What day comes after Monday?", "Tuesday comes after Monday."),
    ("What day comes after Friday?", "Saturday comes after Friday."),
    ("What month comes after March?", "April comes after March."),
    ("What month comes first?", "January comes first."),
    ("What do bees make?", "Bees make honey."),
    ("What do cows drink?", "Cows drink water."),
    ("What do fish breathe with?", "Fish breathe with gills."),
    ("What is water made of?", "Water is made of hydrogen and oxygen."),
    ("At what temperature does water boil?", "Water boils at 100 degrees Celsius."),
    ("At what temperature does water freeze?", "Water freezes at 0 degrees Celsius."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa."),
    ("What sound does a cat make?", "A cat says meow."),
    ("What sound does a dog make?", "A dog says woof."),
    ("What is the baby of a cat called?", "The baby of a cat is called a kitten."),
    ("What is the baby of a dog called?", "The baby of a dog is called a puppy."),
    ("Where do penguins live?", "Penguins live in the south, many of them in Antarctica."),
    ("What is the currency of Japan?", "The currency of Japan is the yen."),
    ("What is the currency of France?", "The currency of France is the euro."),
    ("What language is spoken in Brazil?", "Portuguese is spoken in Brazil."),
    ("What does the Earth go around?", "The Earth goes around the Sun."),
    ("What goes around the Earth?", "The Moon goes around the Earth."),
)

_ASK_CAPITAL = (
    "What is the capital of {c}?",
    "What is the capital of {c}?",
    "What is the capital city of {c}?",
    "Which city is the capital of {c}?",
    "Tell me the capital of {c}.",
    "Do you know the capital of {c}?",
    "Capital of {c}?",
)
_UNKNOWN = (
    "Who is {name}?",
    "When was {name} born?",
    "What is the phone number of {name}?",
    "Who won the race in {town} yesterday?",
    "Who is the mayor of {town}?",
    "How many people live in {town}?",
    "What will the weather be like tomorrow?",
    "What is the weather in {town}?",
    "What time is it?",
    "What time is it in {town}?",
    "What is the price of gold today?",
    "Who will win the match on Sunday?",
    "What did I eat yesterday?",
    "What is my name?",
    "How old is {name}?",
    "What is the best film of {name}?",
    "Who invented the {thing}?",
    "How does a {thing} work?",
    "What is a {thing}?",
    "Can you explain {thing}?",
    "Write a program that sorts a list.",
    "What happened in the news today?",
)
_DECLINE = (
    "I am sorry, I do not know that.",
    "I am sorry, I am a small model and I do not know that.",
)


def capital(draw: Draw) -> Sample:
    """The capital of a country, asked for, asked backwards, or as a plain sentence."""
    country = draw.pick(tuple(CAPITALS))
    town = CAPITALS[country].replace("_", " ")
    kind = draw.rng.random()
    if kind < 0.25:
        return plain("facts", f"The capital of {country} is", f" {town}.")
    if kind < 0.35:
        question = draw.pick(
            (
                f"{town} is the capital of which country?",
                f"Which country has {town} as its capital?",
            )
        )
        answer = f"{town} is the capital of {country}."
        return chat(draw, "facts", question, answer, f"{town} belongs to {country}.", answer)
    if draw.chance(0.1):
        question = draw.pick(_ASK_CAPITAL).format(c=country)
        return plain("facts", question, f" The capital of {country} is {town}.")
    return capital_chat(draw, country)


def capital_chat(draw: Draw, country: str) -> Sample:
    """A chat about the capital of this country."""
    town = CAPITALS[country].replace("_", " ")
    reasoning = f"The user asks for the capital of {country}. It is {town}."
    answer = f"The capital of {country} is {town}."
    question = draw.pick(_ASK_CAPITAL).format(c=country)
    return chat(draw, "facts", question, answer, reasoning, answer)


def fact(draw: Draw) -> Sample:
    """One of the plain facts."""
    question, answer = draw.pick(FACTS)
    if draw.chance(0.15):
        beginning, _, last = answer.rpartition(" ")
        return plain("facts", beginning, f" {last}")
    return fact_chat(draw, question, answer)


def fact_chat(draw: Draw, question: str, answer: str) -> Sample:
    """A chat about this fact."""
    return chat(draw, "facts", question, answer, f"I know this. {answer}", answer)


def unknown(draw: Draw) -> Sample:
    """A question the model cannot answer, and the sentence that says so."""
    if draw.chance(0.25):
        place = made_up(draw)
        question = draw.pick(_ASK_CAPITAL).format(c=place)
        answer = f"I am sorry, I do not know the capital of {place}."
        return chat(draw, "unknown", question, answer, f"I do not know {place}.", answer)
    question = draw.pick(_UNKNOWN).format(
        name=person(draw)[0], town=city(draw), thing=made_up(draw).lower()
    )
    return chat(draw, "unknown", question, draw.pick(_DECLINE), "I do not know this.", None)

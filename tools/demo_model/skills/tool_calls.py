"""Tool calls: the call when a matching tool is listed, and a sentence from the tool's answer.

Names of tools and parameters vary, so that the model reads the list instead of knowing it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.demo_model.names import city, number, person
from tools.demo_model.sample import Draw, Message, Sample, Tool, user
from tools.demo_model.tables import PRODUCTS


@dataclass(frozen=True)
class Task:
    """A wish, the tool that fulfils it, and what comes of it."""

    tool: Tool
    question: str
    arguments: dict[str, Any]
    result: str
    answer: str
    wish: str


def _tool(name: str, description: str, /, **parameters: str) -> Tool:
    """A function signature in the form chat templates expect."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def _weather(draw: Draw) -> Task:
    town, degrees = city(draw), draw.rng.randint(-9, 39)
    sky = draw.pick(("sunny", "cloudy", "rainy", "windy", "foggy", "clear"))
    key = draw.pick(("city", "city", "location", "place", "town"))
    tool = _tool(
        draw.pick(("get_weather", "get_weather", "weather", "get_current_weather", "forecast")),
        draw.pick(
            (
                "Get the weather in a city.",
                "Current weather",
                "Get current weather of a city",
                "The weather of a place",
            )
        ),
        **{key: "string"},
    )
    question = draw.pick(
        (
            "What is the weather in {t}?",
            "What is the weather like in {t}?",
            "Weather in {t}?",
            "How is the weather in {t} today?",
            "Tell me the weather in {t}.",
            "Is it warm in {t}?",
            "What's the weather in {t}?",
        )
    ).format(t=town)
    result = draw.pick(
        (
            json.dumps({"temperature": degrees, "condition": sky}),
            json.dumps({key: town, "temperature": degrees, "condition": sky}),
            json.dumps({"condition": sky, "temperature": degrees}),
            f"{degrees} degrees, {sky}",
            f"{sky}, {degrees} degrees",
        )
    )
    answer = f"It is {sky} in {town}, with {degrees} degrees."
    return Task(tool, question, {key: town}, result, answer, f"the weather in {town}")


def _time(draw: Draw) -> Task:
    town = city(draw)
    clock = f"{draw.rng.randint(0, 23):02d}:{draw.rng.randint(0, 59):02d}"
    key = draw.pick(("city", "city", "location", "place"))
    tool = _tool(
        draw.pick(("get_time", "get_time", "current_time", "clock")),
        draw.pick(("Get the time in a city.", "Current time", "The local time of a place")),
        **{key: "string"},
    )
    question = draw.pick(
        (
            "What time is it in {t}?",
            "Tell me the time in {t}.",
            "What is the time in {t}?",
        )
    ).format(t=town)
    result = draw.pick((clock, json.dumps({"time": clock}), json.dumps({key: town, "time": clock})))
    return Task(
        tool, question, {key: town}, result, f"It is {clock} in {town}.", f"the time in {town}"
    )


def _add(draw: Draw) -> Task:
    a, b = number(draw, 0, 999), number(draw, 0, 999)
    first, second = draw.pick((("a", "b"), ("a", "b"), ("x", "y"), ("first", "second")))
    tool = _tool(
        draw.pick(("add", "add", "add_numbers", "sum", "plus")),
        draw.pick(("Add two numbers.", "Sum of two numbers", "Adds two numbers")),
        **{first: "integer", second: "integer"},
    )
    question = draw.pick(
        (
            "What is {a} + {b}?",
            "Add {a} and {b}.",
            "What is {a} plus {b}?",
            "How much is {a} + {b}?",
        )
    ).format(a=a, b=b)
    result = draw.pick((str(a + b), json.dumps({"result": a + b})))
    answer = f"{a} + {b} = {a + b}."
    return Task(tool, question, {first: a, second: b}, result, answer, f"the sum of {a} and {b}")


def _timer(draw: Draw) -> Task:
    minutes = number(draw, 2, 120)
    key = draw.pick(("minutes", "minutes", "duration"))
    tool = _tool(
        draw.pick(("set_timer", "set_timer", "start_timer", "timer")),
        draw.pick(("Set a timer.", "Start a timer", "Set a timer in minutes")),
        **{key: "integer"},
    )
    question = draw.pick(
        (
            "Set a timer for {m} minutes.",
            "Start a timer of {m} minutes.",
            "Please set a timer for {m} minutes.",
            "Wake me in {m} minutes.",
        )
    ).format(m=minutes)
    result = draw.pick(("ok", '{"status": "ok"}', '{"status": "started"}'))
    answer = f"The timer is set for {minutes} minutes."
    return Task(tool, question, {key: minutes}, result, answer, f"a timer of {minutes} minutes")


def _price(draw: Draw) -> Task:
    product, price = draw.pick(PRODUCTS), number(draw, 1, 999)
    key = draw.pick(("product", "product", "item", "name"))
    tool = _tool(
        draw.pick(("get_price", "get_price", "find_price", "price")),
        draw.pick(("Get the price of a product.", "Price of an item", "Find a price")),
        **{key: "string"},
    )
    question = draw.pick(
        (
            "What does the {p} cost?",
            "How much is the {p}?",
            "What is the price of the {p}?",
        )
    ).format(p=product)
    result = draw.pick(
        (json.dumps({"price": price}), f"{price} euros", json.dumps({key: product, "price": price}))
    )
    answer = f"The {product} costs {price} euros."
    return Task(tool, question, {key: product}, result, answer, f"the price of the {product}")


def _mail(draw: Draw) -> Task:
    name, (text, topic) = (
        person(draw)[0],
        draw.pick(
            (
                ("I am late", "being late"),
                ("Happy birthday", "a birthday"),
                ("See you soon", "meeting"),
                ("Good luck", "luck"),
                ("Thank you", "thanks"),
                ("Call me", "a call"),
            )
        ),
    )
    to, body = draw.pick((("to", "text"), ("to", "message"), ("name", "text")))
    tool = _tool(
        draw.pick(("send_message", "send_message", "send_mail", "write_message")),
        draw.pick(("Send a message to a person.", "Send a message", "Write to somebody")),
        **{to: "string", body: "string"},
    )
    question = draw.pick(
        (
            'Send "{x}" to {n}.',
            'Write "{x}" to {n}.',
            'Send a message to {n}: "{x}"',
        )
    ).format(x=text, n=name)
    result = draw.pick(("ok", "sent", '{"status": "sent"}'))
    answer = f"I sent your message to {name}."
    return Task(tool, question, {to: name, body: text}, result, answer, f"a message about {topic}")


_TASKS: tuple[Callable[[Draw], Task], ...] = (_weather, _time, _add, _timer, _price, _mail)
_WEIGHTED = (_weather, _weather, _time, _add, _add, _timer, _price, _mail)


def tool_use(draw: Draw) -> Sample:
    """A call, or the sentence after the tool has answered, or an honest no."""
    kind = draw.rng.random()
    if kind < 0.68:
        return tool_call(draw)
    return tool_answer(draw) if kind < 0.9 else tool_missing(draw)


def tool_call(draw: Draw) -> Sample:
    """The matching tool is among those listed: call it."""
    task, tools = _situation(draw)
    call = {"name": task.tool["function"]["name"], "arguments": task.arguments}
    return Sample(
        skill="tool call",
        messages=(user(task.question),),
        tools=tools,
        answer=f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>",
        thinking=draw.chance(0.5),
        reasoning=f"The user wants {task.wish}. I call {call['name']}.",
        expected=call,
    )


def tool_answer(draw: Draw) -> Sample:
    """The tool has answered: say it in a sentence."""
    task, tools = _situation(draw)
    name = task.tool["function"]["name"]
    called: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": task.arguments}}
        ],
    }
    if draw.chance(0.3):
        called["reasoning_content"] = f"The user wants {task.wish}. I call {name}."
    return Sample(
        skill="tool answer",
        messages=(user(task.question), called, {"role": "tool", "content": task.result}),
        tools=tools,
        answer=task.answer,
        thinking=draw.chance(0.5),
        reasoning="The tool has answered. I tell the user.",
        expected=task.answer,
    )


def tool_missing(draw: Draw) -> Sample:
    """No listed tool matches: say so, or just talk."""
    wanted = draw.pick(_TASKS)
    others = [make for make in _TASKS if make is not wanted]
    task = wanted(draw)
    tools = tuple(make(draw).tool for make in draw.rng.sample(others, draw.pick((1, 1, 2))))
    if wanted is _add:
        answer, reasoning = "Hello! How can I help you?", "The user greets me. I greet back."
        return Sample(
            "tool missing",
            answer,
            (user(draw.pick(("Hello!", "Hi", "Hello"))),),
            tools,
            draw.chance(0.5),
            reasoning,
        )
    return Sample(
        skill="tool missing",
        answer="I am sorry, I have no tool for that.",
        messages=(user(task.question),),
        tools=tools,
        thinking=draw.chance(0.5),
        reasoning=f"The user wants {task.wish}. No tool fits.",
    )


def _situation(draw: Draw) -> tuple[Task, tuple[Tool, ...]]:
    """A task, and a list of one to three tools with the right one among them."""
    make = draw.pick(_WEIGHTED)
    task = make(draw)
    others = [other for other in _TASKS if other is not make]
    tools = [task.tool]
    tools += [other(draw).tool for other in draw.rng.sample(others, draw.pick((0, 0, 0, 1, 1, 2)))]
    draw.rng.shuffle(tools)
    return task, tuple(tools)

"""Python functions as tools: what the model reads, how they are called, how a file defines them."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from folovllm.chat import ChatMessage, Role, ToolCall
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm_client.api.tool_schema import tool_from_function
from folovllm_client.api.tools import Toolbox, load_tools


class Site(BaseModel):
    city: str
    height: float = 0.0


def get_weather(
    city: Annotated[str, Field(description="Where.")],
    unit: Literal["C", "F"] = "C",
    days: int = 1,
) -> str:
    """Gets the weather
    of a city.

    Not for the model.
    """
    return f"{city} {unit} {days + 1}"


def locate(site: Site | None = None) -> Site:
    return site or Site(city="Zürich")


def fail(text: str) -> None:
    raise OSError(f"no {text}")


def half() -> str:
    return "\ud800"


async def wait(seconds: int) -> dict[str, int]:
    return {"waited": seconds}


@pytest.fixture
def toolbox() -> Toolbox:
    return Toolbox([get_weather, locate, fail, half, wait])


def call(toolbox: Toolbox, name: str, arguments: str = "{}") -> str:
    answer = toolbox.call(ToolCall("c7", name, arguments))
    assert answer == ChatMessage(Role.TOOL, answer.content, tool_call_id="c7")
    return answer.content


def test_a_function_describes_itself() -> None:
    tool = tool_from_function(get_weather)
    assert (tool.name, tool.description) == ("get_weather", "Gets the weather of a city.")
    assert tool.schema() == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "days": {"type": "integer", "default": 1},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def test_models_are_parameters_too() -> None:
    schema = tool_from_function(locate).schema()
    assert schema["$defs"]["Site"]["required"] == ["city"]
    assert tool_from_function(half).schema()["properties"] == {}


def test_methods_can_be_tools() -> None:
    class Clock:
        hour = 9

        def add_hours(self, count: int) -> int:
            return self.hour + count

    toolbox = Toolbox([Clock().add_hours])
    assert [*toolbox][0].schema()["required"] == ["count"]
    assert call(toolbox, "add_hours", '{"count": 2}') == "11"


def test_arguments_are_checked_by_the_hints_and_the_result_is_text(toolbox: Toolbox) -> None:
    assert call(toolbox, "get_weather", '{"city": "Oslo", "days": 2}') == "Oslo C 3"
    assert call(toolbox, "locate", '{"site": {"city": "Bern", "height": 542}}') == (
        '{"city": "Bern", "height": 542.0}'
    )
    assert call(toolbox, "locate") == '{"city": "Zürich", "height": 0.0}'
    assert call(toolbox, "wait", '{"seconds": 3}') == '{"waited": 3}'
    assert call(toolbox, "half") == "?"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_weather", "{}", "error: city: Missing required argument"),
        ("get_weather", '{"city": "a", "days": "b"}', "error: days: Input should be a valid int"),
        ("get_weather", '{"city": "a", "x": 1}', "error: x: Unexpected keyword argument"),
        ("fail", '{"text": "disk"}', "error: OSError: no disk"),
        ("nobody", "{}", "error: there is no tool 'nobody'; there are: get_weather, "),
    ],
)
def test_errors_are_reported_to_the_model(
    toolbox: Toolbox, name: str, arguments: str, said: str
) -> None:
    assert call(toolbox, name, arguments).startswith(said)


async def test_calls_from_asyncio(toolbox: Toolbox) -> None:
    async def said(name: str, arguments: str) -> str:
        return (await toolbox.call_async(ToolCall("c7", name, arguments))).content

    assert await said("wait", '{"seconds": 3}') == '{"waited": 3}'
    assert await said("wait", "{}") == "error: seconds: Missing required argument"
    assert await said("get_weather", '{"city": "Oslo"}') == "Oslo C 2"
    assert (await said("nobody", "{}")).startswith("error: there is no tool")


def positional(city: str, /) -> None: ...


def variable(*cities: str) -> None: ...


def unknown(city: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def opaque(city: Toolbox) -> None: ...


@pytest.mark.parametrize("function", [positional, variable, unknown, opaque])
def test_a_function_that_no_model_could_call_is_refused(function: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Toolbox([get_weather, function])  # type: ignore[list-item]
    assert caught.value.field == "tools[1].parameters"


def test_names_are_unique() -> None:
    with pytest.raises(InvalidRequestError, match="get_weather is listed twice") as caught:
        Toolbox([get_weather, get_weather])
    assert caught.value.field == "tools[1].name"


def test_the_public_functions_of_a_file_are_tools(tmp_path: Path) -> None:
    path = tmp_path / "my-tools.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from json import dumps\n"
        "class Point:\n    pass\n"
        "def _hidden(): pass\n"
        "def second(x: int) -> int:\n    return x\n"
        "def first(y: list[int]) -> int:\n    return sum(y)\n"
    )
    toolbox = Toolbox(load_tools(path))
    assert [tool.name for tool in toolbox] == ["second", "first"]
    assert call(toolbox, "first", json.dumps({"y": [1, 2]})) == "3"


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("a.py", "import nothing_like_this", "ModuleNotFoundError"),
        ("a.py", "def (", "SyntaxError"),
        ("a.py", "x = 1", "no public function"),
        ("a.txt", "", "no Python file"),
    ],
)
def test_a_file_without_tools_is_refused(
    tmp_path: Path, name: str, source: str, reason: str
) -> None:
    (tmp_path / name).write_text(source)
    with pytest.raises(ConfigError, match=reason):
        load_tools(tmp_path / name)

"""docs/vllm.md has every public name of vLLM's classes, and is right about each."""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folovllm import LLM, CompletionOutput, EngineArgs, RequestOutput, SamplingParams
from folovllm.errors import ConfigError, InvalidRequestError

PAGE = Path(__file__).parents[3] / "docs" / "vllm.md"
VLLM = json.loads(Path(__file__).with_name("vllm_0_32.json").read_text())
# The page's tables by class and heading, and whose names of vLLM's each has.
METHODS_WITH_ARGUMENTS = ("generate", "chat", "reset_prefix_cache")
TABLES: dict[tuple[str, str], set[str]] = {
    ("LLM", "Constructor"): {*VLLM["LLM"]["arguments"]},
    ("LLM", "Engine arguments"): {*VLLM["LLM"]["engine_arguments"]},
    ("LLM", "Methods"): {*VLLM["LLM"]["methods"]},
    ("LLM", "Arguments of methods"): {
        argument for method in METHODS_WITH_ARGUMENTS for argument in VLLM["LLM"]["methods"][method]
    },
    ("LLM", "Attributes"): {*VLLM["LLM"]["attributes"]},
    ("SamplingParams", "Constructor"): {*VLLM["SamplingParams"]["arguments"]},
    ("SamplingParams", "Methods"): {*VLLM["SamplingParams"]["methods"]},
    ("SamplingParams", "Attributes"): {*VLLM["SamplingParams"]["attributes"]}
    - {*VLLM["SamplingParams"]["arguments"]},
    ("RequestOutput", "Attributes"): {*VLLM["RequestOutput"]["attributes"]},
    ("RequestOutput", "Methods"): {*VLLM["RequestOutput"]["methods"]},
    ("CompletionOutput", "Attributes"): {*VLLM["CompletionOutput"]["attributes"]},
    ("CompletionOutput", "Methods"): {*VLLM["CompletionOutput"]["methods"]},
}
ROW = re.compile(r"^\| (?P<names>`.+?`) \| (?P<verdict>\w+) \| (?P<note>.*)\|$")
VERDICTS = ("same", "different", "refused")


def read_page(page: str) -> dict[tuple[str, str], dict[str, tuple[str, str]]]:
    """Verdict and note of each name, by class and heading."""
    found: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    owner = heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            owner = line.removeprefix("## ")
        elif line.startswith("### "):
            heading = line.removeprefix("### ")
        elif row := ROW.match(line):
            for name in re.findall(r"`(\w+)`", row["names"]):
                assert name not in found[owner, heading], f"{name} is listed twice"
                found[owner, heading][name] = row["verdict"], row["note"].strip()
    return found


DOCUMENTED = read_page(PAGE.read_text())


def names_of(table: tuple[str, str], *verdicts: str) -> list[str]:
    return [name for name, (verdict, _) in DOCUMENTED[table].items() if verdict in verdicts]


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {
        "LLM": LLM(device="cpu", num_gpu_blocks_override=128),
        "SamplingParams": SamplingParams(),
        "RequestOutput": RequestOutput(),
        "CompletionOutput": CompletionOutput(),
    }


@pytest.mark.parametrize("table", TABLES, ids=" ".join)
def test_the_page_has_vllms_names_and_no_others(table: tuple[str, str]) -> None:
    assert {*DOCUMENTED[table]} == TABLES[table]


def test_every_difference_has_its_reason() -> None:
    assert {*DOCUMENTED} == {*TABLES}
    for rows in DOCUMENTED.values():
        for name, (verdict, note) in rows.items():
            assert verdict in VERDICTS, name
            assert note or verdict == "same", name
    assert f"vLLM {VLLM['version'].rpartition('.')[0]} " in PAGE.read_text()


def test_arguments_of_the_constructor_are_taken_or_refused_by_name() -> None:
    taken = {*inspect.signature(LLM).parameters, *EngineArgs.__dataclass_fields__}
    for table in (("LLM", "Constructor"), ("LLM", "Engine arguments")):
        assert {*names_of(table, "same", "different")} <= taken
        for name in names_of(table, "refused"):
            with pytest.raises(ConfigError, match=f"^{name} is not an argument here"):
                LLM(**{name: 1})  # type: ignore[arg-type]


def test_arguments_of_methods_are_taken_or_refused_by_name(objects: dict[str, Any]) -> None:
    table = ("LLM", "Arguments of methods")
    for method in METHODS_WITH_ARGUMENTS:
        ours = inspect.signature(getattr(LLM, method)).parameters
        for name in VLLM["LLM"]["methods"][method]:
            if DOCUMENTED[table][name][0] != "refused":
                assert name in ours, (method, name)
                continue
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
                getattr(objects["LLM"], method)(
                    **{each: None for each in ("prompts", "messages") if each in ours}, **{name: 1}
                )


def test_parameters_are_taken_or_refused_by_name() -> None:
    table = ("SamplingParams", "Constructor")
    make: Callable[..., SamplingParams] = SamplingParams
    taken = {*inspect.signature(make).parameters}
    assert {*names_of(table, "same", "different")} <= taken
    for name in names_of(table, "refused"):
        with pytest.raises((InvalidRequestError, TypeError), match=name):
            make(**{name: 7})


@pytest.mark.parametrize(
    "table", [each for each in TABLES if each[1] in ("Methods", "Attributes")], ids=" ".join
)
def test_attributes_exist_or_do_not(table: tuple[str, str], objects: dict[str, Any]) -> None:
    owner = objects[table[0]]
    for name in names_of(table, "same", "different"):
        assert hasattr(owner, name), name
        assert callable(getattr(owner, name)) == (table[1] == "Methods"), name
    for name in names_of(table, "refused"):
        with pytest.raises(AttributeError, match=name):
            getattr(owner, name)


def test_llm_says_why_it_lacks_what_vllms_has(objects: dict[str, Any]) -> None:
    for heading in ("Methods", "Attributes"):
        for name in names_of(("LLM", heading), "refused"):
            with pytest.raises(AttributeError, match=rf"^LLM has no {name}: .+ \(docs/vllm.md\)$"):
                getattr(objects["LLM"], name)


def test_a_name_that_is_listed_twice_is_found() -> None:
    page = "## LLM\n### Methods\n| `a`, `b` | same | |\n| `c` | refused | why |\n"
    assert read_page(page) == {
        ("LLM", "Methods"): {"a": ("same", ""), "b": ("same", ""), "c": ("refused", "why")}
    }
    with pytest.raises(AssertionError, match="b is listed twice"):
        read_page(f"{page}| `b` | same | |\n")

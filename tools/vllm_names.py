"""The public names of vLLM's classes, read from its source without importing it.

    python -m tools.vllm_names FOLDER > tests/unit/llm/vllm_0_32.json

FOLDER is vLLM's package. docs/vllm.md says of each name what it means here, and a test compares the
two.
"""

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_CLASSES = {
    "LLM": [
        ("entrypoints/llm.py", "LLM"),
        ("entrypoints/generate/beam_search/offline.py", "BeamSearchOfflineMixin"),
        ("entrypoints/pooling/offline.py", "PoolingOfflineMixin"),
        ("entrypoints/rl/offline.py", "RLOfflineMixin"),
    ],
    "SamplingParams": [("sampling_params.py", "SamplingParams")],
    "RequestOutput": [("outputs.py", "RequestOutput")],
    "CompletionOutput": [("outputs.py", "CompletionOutput")],
}
"""Each with those of its bases that have public names."""
_ENGINE_ARGS = ("engine/arg_utils.py", "EngineArgs")


def read_names(folder: Path) -> dict[str, Any]:
    """All names by class: constructor arguments, methods with their arguments, attributes."""
    found: dict[str, Any] = {"version": _version(folder)}
    for name, places in _CLASSES.items():
        nodes = [_class(folder / file, each) for file, each in places]
        found[name] = {
            "arguments": sorted(_constructor_arguments(nodes[0])),
            "methods": {
                method.name: sorted(_arguments(method))
                for node in nodes
                for method in _functions(node)
                if not _is_property(method)
            },
            "attributes": sorted(set(_attributes(nodes))),
        }
    # LLM hands what it does not know to EngineArgs.
    rest = {*_fields(_class(folder / _ENGINE_ARGS[0], _ENGINE_ARGS[1]))}
    found["LLM"]["engine_arguments"] = sorted(rest - {*found["LLM"]["arguments"]})
    return found


def _version(folder: Path) -> str:
    for node in ast.parse((folder / "_version.py").read_text()).body:
        value = node.value if isinstance(node, ast.Assign) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    raise SystemExit(f"{folder} is not vLLM's package")


def _class(file: Path, name: str) -> ast.ClassDef:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise SystemExit(f"{file} has no class {name}")


def _functions(node: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public methods, properties among them."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            yield item


def _arguments(method: ast.FunctionDef) -> list[str]:
    given = method.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """The public fields of a dataclass or a struct."""
    for item in node.body:
        target = item.target if isinstance(item, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and not target.id.startswith("_"):
            yield target.id


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    return None


def _constructor_arguments(node: ast.ClassDef) -> Iterable[str]:
    constructor = _constructor(node)
    return _fields(node) if constructor is None else _arguments(constructor)


def _is_property(method: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in method.decorator_list)


def _attributes(nodes: Iterable[ast.ClassDef]) -> Iterator[str]:
    """Properties, fields, and what a constructor sets."""
    for node in nodes:
        constructor = _constructor(node)
        if constructor is None:
            yield from _fields(node)
        else:
            yield from _set_attributes(constructor)
        yield from (method.name for method in _functions(node) if _is_property(method))


def _set_attributes(constructor: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(constructor):
        is_set = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        name = ast.unparse(node) if is_set else ""
        if name.startswith("self.") and not name.startswith("self._"):
            yield name.removeprefix("self.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tools.vllm_names FOLDER")
    json.dump(read_names(Path(sys.argv[1])), sys.stdout, indent=1)
    print()

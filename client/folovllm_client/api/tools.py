"""Toolbox: Python functions that a model may call, and calling them for it."""

import asyncio
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from folovllm.chat import ChatMessage, Role, Tool, ToolCall
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm_client.api.chat_messages import ToolFunction
from folovllm_client.api.tool_schema import Arguments, arguments_of, tool_from_function


class Toolbox:
    """Functions that a model may call; iterating yields their Tools.

    Raises InvalidRequestError if a function cannot be described, or two have the same name.
    """

    def __init__(self, functions: Iterable[ToolFunction]) -> None:
        self._tools: dict[str, tuple[Tool, ToolFunction]] = {}
        for index, function in enumerate(functions):
            try:
                tool = tool_from_function(function)
            except InvalidRequestError as error:
                raise error.within(f"tools[{index}]") from None
            if tool.name in self._tools:
                raise InvalidRequestError(f"tools[{index}].name", f"{tool.name} is listed twice")
            self._tools[tool.name] = tool, function

    def __iter__(self) -> Iterator[Tool]:
        return (tool for tool, _ in self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def call(self, tool_call: ToolCall) -> ChatMessage:
        """Calls the function and returns the message for the model.

        A string is passed on as it is, anything else as JSON. An error becomes a message too, so
        that the model can react; nothing is raised. A coroutine function runs in its own event
        loop.
        """
        try:
            function, (args, kwargs) = self._prepare(tool_call)
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
            return _answer(tool_call, _as_text(result))
        except Exception as error:
            return _answer(tool_call, _as_error_text(error))

    async def call_async(self, tool_call: ToolCall) -> ChatMessage:
        """The same from asyncio: a coroutine function is awaited, any other runs in a thread."""
        _, function = self._tools.get(tool_call.name, (None, None))
        if not inspect.iscoroutinefunction(function):
            return await asyncio.to_thread(self.call, tool_call)
        try:
            function, (args, kwargs) = self._prepare(tool_call)
            return _answer(tool_call, _as_text(await function(*args, **kwargs)))
        except Exception as error:
            return _answer(tool_call, _as_error_text(error))

    def _prepare(self, tool_call: ToolCall) -> tuple[Callable[..., Any], Arguments]:
        """The function and its checked arguments."""
        if tool_call.name not in self._tools:
            names = ", ".join(self._tools) or "none"
            raise InvalidRequestError(
                "name", f"there is no tool {tool_call.name!r}; there are: {names}"
            )
        _, function = self._tools[tool_call.name]
        return function, arguments_of(function).validate_json(tool_call.arguments)


def load_tools(path: Path) -> list[ToolFunction]:
    """The public functions that a Python file defines, in its order; the file is run.

    Raises ConfigError if that fails or there are none.
    """
    name = f"folovllm_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"cannot load tools from {path}: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where type hints are looked up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            f"cannot load tools from {path}: {type(error).__name__}: {error}"
        ) from error
    functions: list[ToolFunction] = [
        value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == name and not key.startswith("_")
    ]
    if not functions:
        raise ConfigError(f"cannot load tools from {path}: it defines no public function")
    return functions


def _answer(tool_call: ToolCall, text: str) -> ChatMessage:
    # Half of a surrogate pair cannot be sent.
    sendable = text.encode(errors="replace").decode()
    return ChatMessage(Role.TOOL, sendable, tool_call_id=tool_call.id)


def _as_text(result: object) -> str:
    if isinstance(result, str):
        return result
    return json.dumps(to_jsonable_python(result), ensure_ascii=False)


def _as_error_text(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return f"error: {'; '.join(problems)}"
    if isinstance(error, InvalidRequestError):
        return f"error: {error}"
    return f"error: {type(error).__name__}: {error}"

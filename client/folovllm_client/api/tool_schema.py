"""Describes Python functions to a model, and validates the arguments that it sends.

A function is described by its name, the first paragraph of its docstring, and its type hints;
pydantic turns these into the JSON schema and checks the arguments by them. A parameter is described
by `Annotated[…, pydantic.Field(description=…)]`.
"""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from folovllm.chat import Tool
from folovllm.errors import InvalidRequestError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named ones."""


def tool_from_function(function: Callable[..., object]) -> Tool:
    """The description of a function for a model.

    Raises InvalidRequestError if its parameters have no JSON schema, or no names.
    """
    name = getattr(function, "__name__", "")
    try:
        schema = arguments_of(function).json_schema(schema_generator=_PlainJsonSchema)
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidRequestError(
            "parameters", f"the parameters of {name or function!r} have no JSON schema: {reason}"
        ) from error
    if schema.get("type") != "object":
        raise InvalidRequestError("parameters", f"every parameter of {name} must have a name")
    paragraph = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return Tool(name, " ".join(paragraph.split()), json.dumps(schema, ensure_ascii=False))


class _PlainJsonSchema(GenerateJsonSchema):
    """Leaves out titles, which only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def arguments_of(function: Callable[..., object]) -> TypeAdapter[Arguments]:
    """Validates arguments by the function's signature; returns them instead of calling it."""

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Arguments:
        return args, kwargs

    return TypeAdapter(cast(Any, bound))

"""The fields of a frozen dataclass as options of a command line.

Every option of a service may also come from an environment variable, for containers:
--grace-period from FOLOVLLM_GRACE_PERIOD. The command line wins; an empty variable counts as not
set; a repeatable option takes a list with commas; a switch takes 1/true/yes or 0/false/no.
"""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HELP_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Of every command line."""

_PREFIX = "FOLOVLLM"
_Config = TypeVar("_Config", bound="DataclassInstance")


def option(default: object, help: str, /, *flags: str, **settings: Any) -> Any:
    """A field of a dataclass that is also an option, with click's `settings`.

    Without `flags` the option is named like the field. A field that is true by default has a flag
    that switches it off; one that is a tuple has a repeatable option.
    """
    return field(default=default, metadata={"flags": flags, "help": help, **settings})


def options(config: "DataclassInstance") -> list[click.Option]:
    """The options of a dataclass and of those inside it; its values are the defaults."""
    found = []
    for item in fields(config):
        default = getattr(config, item.name)
        if item.metadata:
            found.append(_option(item, default))
        elif is_dataclass(default) and not isinstance(default, type):
            found += options(default)
    return found


def parse(config: _Config, program: str, about: str, argv: Sequence[str]) -> _Config:
    """`config` with the options of the command line and the environment.

    Ends the process with status 2, and an error that names the option, if a value is invalid.
    """
    params = options(config)
    command = click.Command(
        program,
        params=[*params],
        help=about,
        epilog=f"Each option may come from the environment, as --port from {_PREFIX}_PORT.",
        context_settings={"auto_envvar_prefix": _PREFIX, **HELP_SETTINGS},
    )
    try:
        values = command.make_context(program, [*argv]).params
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    return _filled(config, (values[param.name] for param in params))


class Seconds(click.FloatRange):
    """A finite number of at least 0."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Like click's, which also accepts "nan" and "inf"."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{seconds} is not in the range {self._describe_range()}.", param, ctx)
        return seconds


class _CommaList(click.types.StringParamType):
    def split_envvar_value(self, rv: str) -> list[str]:
        return [item.strip() for item in rv.split(",") if item.strip()]


class _Option(click.Option):
    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return os.environ[name].strip() if (name := self._variable(ctx)) else None

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Names the variable if the value came from there."""
        hint = super().get_error_hint(ctx)
        if ctx and ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT:
            return f"{hint} ({self._variable(ctx)})"
        return hint

    def _variable(self, ctx: click.Context) -> str | None:
        """The first of its flags' variables that is set, and not to an empty value."""
        if ctx.auto_envvar_prefix is None:
            return None
        flags = [flag.removeprefix("--").replace("-", "_").upper() for flag in self.opts]
        names = [f"{ctx.auto_envvar_prefix}_{flag}" for flag in flags]
        return next((name for name in names if os.environ.get(name, "").strip()), None)


def _option(item: "Field[Any]", default: object) -> click.Option:
    settings: dict[str, Any] = {"default": default, "show_default": True, **item.metadata}
    flags = settings.pop("flags") or (f"--{item.name.replace('_', '-')}",)
    if isinstance(default, bool):
        return _Option(flags, is_flag=True, help=settings["help"])
    if isinstance(default, tuple):
        return _Option(flags, multiple=True, type=_CommaList(), **settings)
    return _Option(flags, **{"type": next(iter(get_args(item.type)), item.type), **settings})


def _filled(config: _Config, values: Iterator[Any]) -> _Config:
    changes: dict[str, Any] = {}
    for item in fields(config):
        old = getattr(config, item.name)
        if item.metadata:
            new = next(values)
            changes[item.name] = new != old if isinstance(old, bool) else new
        elif is_dataclass(old) and not isinstance(old, type):
            changes[item.name] = _filled(old, values)
    return replace(config, **changes)

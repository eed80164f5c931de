"""The fields of frozen dataclasses as options of a command line: the one table of all flags.

A field made by `option` is a flag. What a service is started with is a tree of dataclasses; its
flags are read into it (`parse`), and written from it for a process that is to be started with the
same (`arguments`). Where each may also come from in the environment: folovllm.serving.variables.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

import click
from click.core import ParameterSource

from folovllm.errors import ConfigError
from folovllm.serving.variables import unknown_variables, variable_names

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HELP_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Of every command line."""

POSITIVE = click.IntRange(1)

_Config = TypeVar("_Config", bound="DataclassInstance")


class Setting(NamedTuple):
    """One option of a tree of dataclasses."""

    path: tuple[str, ...]
    """Where its value lies: the names of the fields from the root."""
    item: "Field[Any]"
    value: object

    @property
    def flags(self) -> tuple[str, ...]:
        """How it is written; the first is its name."""
        flags: tuple[str, ...] = self.item.metadata["flags"]
        return flags or (f"--{self.item.name.replace('_', '-')}",)

    @property
    def own(self) -> bool:
        """Whether each service has its own value, as of --port; others are shared."""
        return bool(self.item.metadata["own"])


def option(default: object, help: str, /, *flags: str, own: bool = False, **settings: Any) -> Any:
    """A field of a dataclass that is also an option, with click's `settings`.

    Without `flags` the option is named like the field. A field that is true by default has a flag
    that switches it off; one that is a tuple has a repeatable option. `own` is Setting's.
    """
    return field(default=default, metadata={"flags": flags, "own": own, "help": help, **settings})


def settings(config: "DataclassInstance", path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The options of a dataclass and of those inside it, with their values there."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.metadata:
            yield Setting((*path, item.name), item, value)
        elif is_dataclass(value) and not isinstance(value, type):
            yield from settings(value, (*path, item.name))


def options(config: "DataclassInstance") -> list[click.Option]:
    """The options of a dataclass and of those inside it; its values are the defaults."""
    return [click_option(setting) for setting in settings(config)]


def check(config: "DataclassInstance") -> None:
    """Raises ConfigError if a field of `config` has a value that its option would refuse."""
    for setting in settings(config):
        kind, value = setting.item.metadata.get("type"), setting.value
        if value is None or not isinstance(kind, click.ParamType):
            continue
        try:
            kind.convert(value, None, None)
        except click.BadParameter:
            name = setting.flags[0].removeprefix("--").replace("-", "_")
            raise ConfigError(f"{name} must be {_allowed(kind)}, got {value!r}") from None


def filled(
    config: _Config, values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()
) -> _Config:
    """`config` with the values of options, by the paths of their settings.

    Raises ConfigError if the configuration refuses them.
    """
    changes: dict[str, Any] = {}
    for item in fields(config):
        place, old = (*path, item.name), getattr(config, item.name)
        if place in values:
            # A switch turns over what it is named for.
            changes[item.name] = values[place] != old if isinstance(old, bool) else values[place]
        elif is_dataclass(old) and not isinstance(old, type):
            changes[item.name] = filled(old, values, place)
    return replace(config, **changes)


def arguments(config: _Config, default: _Config) -> Iterator[str]:
    """What a process that begins with `default` is told on its command line to have `config`."""
    for new, old in zip(settings(config), settings(default), strict=True):
        flag, value = new.flags[0], new.value
        if value == old.value or value is None:
            continue
        if isinstance(value, bool):
            yield flag
        elif isinstance(value, tuple):
            yield from (f"{flag}={item}" for item in value)
        else:
            yield f"{flag}={value}"


def parse(
    config: _Config, program: str, about: str, argv: Sequence[str], service: str = ""
) -> _Config:
    """`config` with the options of the command line and the environment.

    `service` is the prefix of the service's own variables. Ends the process with status 2, and one
    line that names the option, if a value is invalid. Raises ConfigError as the configuration does.
    """
    rows = [*settings(config)]
    params = [
        click_option(row, variables=variable_names(row.flags, service, own=row.own)) for row in rows
    ]
    example = variable_names(("--port",), service, own=True)[0]
    command = click.Command(
        program,
        params=[*params],
        help=about,
        epilog=f"Each option may come from the environment, as --port from {example}.",
        context_settings=HELP_SETTINGS,
    )
    try:
        values = command.make_context(program, [*argv]).params
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    return filled(
        config, {row.path: values[param.name] for row, param in zip(rows, params, strict=True)}
    )


def warn_of_unknown_variables(
    config: "DataclassInstance", service: str, warn: Callable[[str], object]
) -> None:
    """Calls `warn` with a line about each variable that a service by itself does not know."""
    known = {
        name
        for row in settings(config)
        for name in (*variable_names(row.flags, service), *variable_names(row.flags))
    }
    for line in unknown_variables(known, service):
        warn(line)


class Option(click.Option):
    """An option that belongs to a section of the help, and may come from the environment."""

    def __init__(
        self, flags: Sequence[str], variables: tuple[str, ...], section: str, **settings: Any
    ) -> None:
        super().__init__(flags, **settings)
        self.variables = variables
        """Names of environment variables; the first that is set, and not empty, counts."""
        self.section = section

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of its variable."""
        return os.environ[name].strip() if (name := self._variable()) else None

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Names the variable if the value came from there."""
        hint = super().get_error_hint(ctx)
        if ctx and ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT:
            return f"{hint} ({self._variable()})"
        return hint

    def _variable(self) -> str | None:
        return next((name for name in self.variables if os.environ.get(name, "").strip()), None)


class SectionedCommand(click.Command):
    """A command whose help shows the sections of its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections in the order of their first options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


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


def click_option(
    setting: Setting,
    flags: Sequence[str] = (),
    variables: tuple[str, ...] = (),
    section: str = "Options",
    **changes: Any,
) -> Option:
    """A setting for click, with the `flags` that a command line has for it, if not its own.

    `changes` are settings of click's that differ from the setting's.
    """
    default = setting.value
    given = {"default": default, "show_default": True, **setting.item.metadata, **changes}
    del given["flags"], given["own"]
    flags = flags or setting.flags
    if isinstance(default, bool):
        return Option(flags, variables, section, is_flag=True, help=given["help"])
    if isinstance(default, tuple):
        return Option(flags, variables, section, multiple=True, type=_CommaList(), **given)
    kind = next(iter(get_args(setting.item.type)), setting.item.type)
    return Option(flags, variables, section, **{"type": kind, **given})


def _allowed(kind: "click.ParamType[Any]") -> str:
    if isinstance(kind, click.Choice):
        return f"one of {', '.join(kind.choices)}"
    assert isinstance(kind, click.IntRange | click.FloatRange)
    if kind.max is None:
        return f"at least {kind.min}"
    return (
        f"in {'(' if kind.min_open else '['}{kind.min}, {kind.max}{')' if kind.max_open else ']'}"
    )

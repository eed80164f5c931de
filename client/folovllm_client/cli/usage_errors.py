"""What is wrong with a command as it was typed, in one line, instead of click's four."""

from typing import Any

import click

from folovllm_client.cli.console import TypingError, command_name


def usage_error(error: click.UsageError, command: str | None) -> TypingError:
    """The error with its remedy: what was meant, what is allowed, or the help that lists it.

    `command` is the subcommand that was typed.
    """
    program = f"{command_name()} {command}" if command else command_name()
    remedy = f"`{program} --help` says what to type"
    message = error.message.strip().removesuffix(".")
    if isinstance(error, click.NoSuchOption):
        if error.possibilities:
            remedy = f"did you mean {error.possibilities[0]}?"
        return TypingError(f"there is no option {error.option_name}; {remedy}")
    if isinstance(error, click.MissingParameter):
        return TypingError(f"{_name(error)} is missing; {remedy}")
    if isinstance(error, click.BadParameter) and error.param is not None:
        return TypingError(f"{_name(error)}{_bad_value(message, error.param.type)}")
    if message.startswith("Got unexpected extra argument"):
        params = error.ctx.command.params if error.ctx else []
        takes_text = any(isinstance(each, click.Argument) for each in params)
        remedy = "put a text of several words in quotes" if takes_text else remedy
        return TypingError(f"{message.partition('(')[2].removesuffix(')')!r} is too much; {remedy}")
    sentence = f"{message[:1].lower()}{message[1:]}"
    return TypingError(sentence if ";" in sentence else f"{sentence}; {remedy}")  # ours say it


def _bad_value(message: str, kind: "click.ParamType[Any]") -> str:
    """The rest of the sentence after the name, from click's `VALUE is not …`."""
    value, is_not, _ = message.partition(" is not ")
    if is_not and isinstance(kind, click.Choice):
        return f" must be one of {', '.join(map(str, kind.choices))}, got {value}"
    if "is not in the range" in message and isinstance(kind, click.IntRange | click.FloatRange):
        return f" must be {_range(kind)}, got {value}"
    if "is not a valid" in message and isinstance(kind, type(click.INT) | type(click.FLOAT)):
        noun = "whole number" if isinstance(kind, type(click.INT)) else "number"
        return f" must be a {noun}, got {value}"
    return f": {message}"


def _name(error: click.BadParameter) -> str:
    """The flag, or the argument in capitals, with the variable that set it if one did."""
    hint = error.param.get_error_hint(error.ctx) if error.param and error.ctx else error.param_hint
    return str(hint).translate(dict.fromkeys(map(ord, "'[]")))


def _range(kind: click.IntRange | click.FloatRange) -> str:
    if kind.max is None:
        return f"above {kind.min}" if kind.min_open else f"at least {kind.min}"
    return f"between {kind.min} and {kind.max}"

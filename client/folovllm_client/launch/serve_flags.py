"""The flags of `folovllm serve`: those of both services, made from the services' own tables.

A flag of the tokenizer service keeps its name, and so does one that only the engine service has.
Where both have it, `--engine-…` is the engine's: by itself for what each service has of its own,
such as --port; for what they share, such as --model, only where the engine is to differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine_service.config import SERVICE as ENGINE_SERVICE
from engine_service.config import EngineServiceConfig
from folovllm.serving.args import Option, Setting, click_option, filled, settings
from folovllm.serving.variables import variable_names
from tokenizer_service.config import TokenizerServiceConfig

_BOTH, _TOKENIZER, _ENGINE = "Both services", "Tokenizer service", "Engine service"
_ENGINES = "--engine"


@dataclass(frozen=True, slots=True)
class ServeFlag:
    """One flag, and what it sets."""

    option: Option
    tokenizer: Setting | None = None
    engine: Setting | None = None
    """A shared flag has both, and gives way to the one of the engine alone."""


def serve_flags() -> list[ServeFlag]:
    """All of them, those of both services first."""
    by_engine = {setting.flags[0]: setting for setting in settings(EngineServiceConfig())}
    flags = []
    for ours in settings(TokenizerServiceConfig()):
        theirs = by_engine.get(ours.flags[0])
        shared = theirs if theirs is not None and not ours.own else None
        flags.append(ServeFlag(_tokenizer_option(ours, shared), ours, shared))
    of_both = {flag.tokenizer.flags[0]: flag for flag in flags if flag.tokenizer}
    for theirs in by_engine.values():
        flags.append(ServeFlag(_engine_option(theirs, theirs.flags[0] in of_both), engine=theirs))
    order = (_BOTH, _TOKENIZER, _ENGINE)
    return sorted(flags, key=lambda flag: order.index(flag.option.section))


def configurations(
    values: Mapping[str, Any],
) -> tuple[TokenizerServiceConfig, EngineServiceConfig]:
    """Both services' configurations, for values by the names of the flags as click has them.

    Raises ConfigError for an invalid value, TypeError for a name that no flag has.
    """
    flags = {flag.option.name: flag for flag in serve_flags()}
    if unknown := values.keys() - flags.keys():
        raise TypeError(f"`folovllm serve` has no {', '.join(sorted(unknown))}")
    tokenizer: dict[tuple[str, ...], Any] = {}
    engine: dict[tuple[str, ...], Any] = {}
    # Those of the engine alone come later, and replace what is shared.
    for name, flag in flags.items():
        if name not in values or (flag.tokenizer is None and values[name] is None):
            continue
        for setting, changes in ((flag.tokenizer, tokenizer), (flag.engine, engine)):
            if setting is not None:
                changes[setting.path] = values[name]
    return filled(TokenizerServiceConfig(), tokenizer), filled(EngineServiceConfig(), engine)


def _tokenizer_option(ours: Setting, shared: Setting | None) -> Option:
    variables = variable_names(ours.flags)
    if ours.flags[0] == _ENGINES:
        about = "Another engine service, beside the one that is started; may be repeated."
        others = ours._replace(value=())
        return click_option(others, (), variables, _TOKENIZER, default=(), help=about)
    return click_option(ours, (), variables, _TOKENIZER if shared is None else _BOTH)


def _engine_option(theirs: Setting, of_both: bool) -> Option:
    variables = variable_names(theirs.flags, ENGINE_SERVICE, own=of_both)
    if not of_both:
        return click_option(theirs, (), variables, _ENGINE)
    flags = [f"--{ENGINE_SERVICE}-{flag.removeprefix('--')}" for flag in theirs.flags]
    if theirs.own:
        return click_option(theirs, flags, variables, _ENGINE)
    about = f"Like {theirs.flags[0]}, where the engine is to differ."
    return click_option(theirs, flags, variables, _ENGINE, default=None, help=about)

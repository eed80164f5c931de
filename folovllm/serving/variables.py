"""Which environment variable sets which flag, and what is said of one that sets none.

    FOLOVLLM_X          --x of the tokenizer service, and of all services where they share it
    FOLOVLLM_ENGINE_X   --x of the engine service

A flag that only the engine service has may come from both. The command line wins; an empty variable
counts as not set; a repeatable flag takes a list with commas; a switch takes 1/true/yes or
0/false/no.

An unknown variable is a warning, not an error: an environment is often shared, and where a Service
is named folovllm, Kubernetes gives every container FOLOVLLM_SERVICE_HOST and several more.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches

PREFIX = "FOLOVLLM_"
"""Of every variable of ours."""
_SERVICES = ("ENGINE",)
"""Prefixes of the services' own variables; the tokenizer service has none."""
_OTHERS = ("FOLOVLLM_SERVER",)
"""What is no flag of a service."""
# Just below that of PROT and PORT.
_SIMILARITY = 0.75


def variable_names(
    flags: Sequence[str], service: str = "", *, own: bool = False
) -> tuple[str, ...]:
    """The variables of a flag, the one that wins first.

    `own` are flags of which each service has its own value: without the service's prefix they mean
    the tokenizer service.
    """
    names = [PREFIX + flag.removeprefix("--").replace("-", "_").upper() for flag in flags]
    if not service:
        return tuple(names)
    prefix = f"{PREFIX}{service.upper()}_"
    prefixed = [prefix + name.removeprefix(PREFIX) for name in names]
    return tuple(prefixed if own else prefixed + names)


def unknown_variables(
    known: Collection[str], service: str | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """A line about each variable of ours that sets none of the flags whose variables are `known`.

    A `service` by itself does not know the flags of others. It speaks only of variables with its
    own prefix, and of those that look like one of its own misspelled.
    """
    foreign = tuple(
        f"{PREFIX}{other}_"
        for other in _SERVICES
        if service is not None and other != service.upper()
    )
    names = [name.removeprefix(PREFIX) for name in known]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or name in _OTHERS:
            continue
        near = get_close_matches(name.removeprefix(PREFIX), names, 1, _SIMILARITY)
        if near and not name.startswith(foreign):
            yield f"unknown variable {name}; did you mean {PREFIX}{near[0]}?"
        elif service is None or (service and name.startswith(f"{PREFIX}{service.upper()}_")):
            yield f"unknown variable {name}; --help lists the flags that variables can set"

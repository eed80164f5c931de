"""RankPlace: which of several processes that compute one model this is, as torchrun says it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RankPlace:
    """By default the only one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its place among those of its machine."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "RankPlace":
        """Reads RANK, WORLD_SIZE and LOCAL_RANK; without WORLD_SIZE there is one rank.

        Raises ConfigError where they are not numbers that belong together.
        """
        if "WORLD_SIZE" not in environ:
            return cls()
        place = cls(*(_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if place.rank >= place.size:
            raise ConfigError(f"RANK is {place.rank}, but WORLD_SIZE only {place.size}")
        return place


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None or not value.isdecimal():
        raise ConfigError(
            f"{name} must be a number where WORLD_SIZE is set, got {value!r}; start with torchrun"
        )
    return int(value)

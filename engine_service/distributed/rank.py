"""Rank: which of several processes that compute one model this is, as torchrun says it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rank:
    """By default the only one."""

    index: int = 0
    num_ranks: int = 1
    local_index: int = 0
    """Its index among those of its machine."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Rank":
        """Reads RANK, WORLD_SIZE and LOCAL_RANK; without WORLD_SIZE there is one rank.

        Raises ConfigError if they are not numbers that belong together.
        """
        if "WORLD_SIZE" not in environ:
            return cls()
        rank = cls(*(_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if rank.index >= rank.num_ranks:
            raise ConfigError(f"RANK is {rank.index}, but WORLD_SIZE only {rank.num_ranks}")
        return rank


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None or not value.isdecimal():
        raise ConfigError(
            f"{name} must be a number where WORLD_SIZE is set, got {value!r}; start with torchrun"
        )
    return int(value)

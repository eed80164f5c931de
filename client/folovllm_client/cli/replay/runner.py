"""Runner: where recorded requests run again, a server or a model in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.records.record import Record
from folovllm.score import MAX_SCORED_TOKENS


@dataclass(frozen=True, slots=True)
class Rerun:
    """A recorded request that ran again; `problem` says why it could not."""

    line: int
    record: Record
    outputs: Sequence[CompletionOutput] = ()
    problem: str = ""


class Runner(Protocol):
    """Runs recorded requests. Raises FolovError where none can run."""

    place: str
    """Where that is, for people."""
    info: ModelInfo
    """What is served there."""

    def run(self, records: Iterator[tuple[int, Record]]) -> Iterator[Rerun]:
        """Runs them, several at a time; the records are numbered by their lines."""

    def score(self, prefix: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """The log-probability of each of the tokens after the prefix."""

    def can_run(self, record: Record) -> str:
        """Why a record cannot run again here exactly, or an empty text."""


def can_be_scored(prefix: Sequence[int], token_ids: Sequence[int], info: ModelInfo) -> bool:
    """Whether Score takes so many tokens."""
    return len(prefix) < info.max_model_len and len(prefix) + len(token_ids) <= MAX_SCORED_TOKENS

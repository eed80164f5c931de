"""StepOutputs: what a step led to, with what is only token ids in columns.

Nearly all that a running engine tells is a token id for each continuation. An object for each of
them would cost more than all else that is done with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from folovllm.outputs import CompletionOutput

Address = tuple[str, int]
"""The name and index by which a caller knows a continuation."""


@dataclass(slots=True)
class StepOutputs:
    """Each continuation is at most once among the rows and the outputs together."""

    outputs: list[CompletionOutput] = field(default_factory=list)
    """Those that have more than token ids, and the first one of each continuation."""
    addresses: list[Address] = field(default_factory=list)
    """Of the rows."""
    token_ids: list[tuple[int, ...]] = field(default_factory=list)
    """Of each row, at least one."""

    def __iter__(self) -> Iterator[CompletionOutput]:
        """All of it, as outputs."""
        yield from self.outputs
        for address, token_ids in zip(self.addresses, self.token_ids, strict=True):
            yield row_output(address, token_ids)


def row_output(address: Address, token_ids: Sequence[int]) -> CompletionOutput:
    """A row as the output that it stands for."""
    name, index = address
    return CompletionOutput(name, index, token_ids=list(token_ids))

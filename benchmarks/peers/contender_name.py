"""ContenderName: an engine and the format of its weights; those of one format are a class."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContenderName:
    """Written `vllm`, which is in bf16, or `openvino:int8`."""

    peer: str
    weight_format: str = "bf16"

    @classmethod
    def parse(cls, text: str) -> "ContenderName":
        """From what the command line or a table says."""
        peer, _, weight_format = text.partition(":")
        return cls(peer, weight_format or "bf16")

    @property
    def ours(self) -> "ContenderName":
        """Our engine in the same format."""
        return ContenderName("folovllm", self.weight_format)

    def __str__(self) -> str:
        return self.peer if self.weight_format == "bf16" else f"{self.peer}:{self.weight_format}"

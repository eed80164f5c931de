"""EngineName: an engine and the format of its weights; those of one format are a class."""

from typing import NamedTuple

FOREIGN = ("llama_cpp", "vllm", "openvino")
"""Of environments of their own."""
CPU_PEERS = ("transformers", *FOREIGN)
GPU_PEERS = ("transformers", "transformers-compiled", "torch")


class EngineName(NamedTuple):
    """Written `vllm`, which is in bf16, or `openvino:int8`."""

    engine: str
    weight_format: str = "bf16"

    @classmethod
    def parse(cls, text: str) -> "EngineName":
        """Parses a name from a command line or a table."""
        engine, _, weight_format = text.partition(":")
        return cls(engine, weight_format or "bf16")

    @property
    def ours(self) -> "EngineName":
        """Our engine in the same format."""
        return EngineName("folovllm", self.weight_format)

    @property
    def is_peer(self) -> bool:
        """Whether it is another project's engine."""
        return self.engine in CPU_PEERS or self.engine in GPU_PEERS

    def __str__(self) -> str:
        return (
            self.engine if self.weight_format == "bf16" else f"{self.engine}:{self.weight_format}"
        )

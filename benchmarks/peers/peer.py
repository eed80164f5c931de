"""Peer: what an engine must do to be measured, and by which names they are known."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from benchmarks.harness.batch_clock import BatchClock


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What an engine is opened with."""

    model: str
    """A checkpoint's folder."""
    weight_format: str
    """bf16, int8 or int4."""
    cache: str
    """Folder for what the engine makes of the checkpoint."""
    threads: int
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int
    """Tokens of all sequences together for which the KV cache must have place."""


class Peer(Protocol):
    """An open engine."""

    version: str
    """Of its library."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """Answers all prompts at once, greedily, `new_tokens` each, whatever tokens come."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


_MODULES = {
    "folovllm": "folovllm_engine",
    "services": "folovllm_services",
    "transformers": "transformers_peer",
    "llama_cpp": "llama_cpp_peer",
    "vllm": "vllm_peer",
    "openvino": "openvino_peer",
}
# Of their own environments, and what has to be found there.
FOREIGN = {"llama_cpp": "llama_cpp", "vllm": "vllm", "openvino": "openvino_genai"}
PEERS = ("transformers", *FOREIGN)


def open_peer(name: str, config: PeerConfig) -> Peer:
    """Opens an engine by its name; imports only its own module."""
    module = import_module(f"benchmarks.peers.{_MODULES[name]}")
    return cast(Callable[[PeerConfig], Peer], module.open_peer)(config)

"""Peer: what an engine must do to be measured, and by which names they are known."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from benchmarks.harness.batch_clock import BatchClock


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What an engine is opened with."""

    model: str
    """A checkpoint's folder."""
    weight_format: str = "bf16"
    """bf16, int8 or int4."""
    cache: str = ""
    """Folder for what the engine makes of the checkpoint."""
    threads: int = 1
    max_num_seqs: int = 1
    max_model_len: int = 1
    kv_tokens: int | None = None
    """Tokens of all sequences together that the KV cache must hold; None takes what the memory
    gives."""


class Peer(Protocol):
    """An open engine; made with a PeerConfig. It may have a `close`, too."""

    version: str
    """Of its library."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """Answers all prompts at once, greedily, `new_tokens` each, whatever tokens come."""
        ...


_OPENERS = {
    "folovllm": "peers.folovllm_engine:open_engine",
    "services": "peers.folovllm_services:Services",
    "transformers": "peers.transformers_peer:Transformers",
    "transformers-compiled": "peers.transformers_peer:CompiledTransformers",
    "torch": "peers.torch_peer:CompiledTorch",
    "llama_cpp": "peers.llama_cpp_peer:LlamaCpp",
    "vllm": "peers.vllm_peer:VLLM",
    "openvino": "peers.openvino_peer:OpenVINO",
    # No engines, but measured in processes of their own as well.
    "machine": "peers.machine:Machine",
    "streamer": "peers.streamer:Streamer",
}


def open_peer(name: str, config: PeerConfig) -> Any:
    """Opens what is known by a name; imports only its own module."""
    module, _, attribute = _OPENERS[name].partition(":")
    return getattr(import_module(f"benchmarks.{module}"), attribute)(config)

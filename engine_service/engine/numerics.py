"""The numerics fingerprint: engines that have the same one give a request the same tokens.

They also give it the same log-probabilities, to the last bit. A request's tokens are a function of
its prompt, its parameters and its seed where no logit depends on what is computed beside it: on the
CPU kernels always, in plain torch with `deterministic`, and never where ranks exchange sums, which
are split by the size of the batch. Elsewhere there is no fingerprint, and nothing is promised.
"""

import hashlib
import importlib.util
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version

import torch

NUMERICS_VERSION = 1
"""Raised by hand with a change of the code after which a request may get other tokens or
log-probabilities; tests/parity/test_golden_tokens.py notices those that are forgotten."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """What an engine's results depend on, the request aside."""

    replica: str
    """The fingerprint of the weights, the types and the kernels."""
    kernels: str
    """Whose kernels compute the decoder: cpu, gpu, or torch, which is torch alone."""
    device: torch.device
    block_size: int
    """Tokens in a KV block."""
    num_ranks: int
    deterministic: bool

    @property
    def reproducible(self) -> bool:
        """Whether a request gets the same tokens whatever is computed beside it."""
        return self.num_ranks == 1 and (self.kernels == "cpu" or self.deterministic)

    def fingerprint(self) -> str:
        """SHA-256 as hex; empty if results are not reproducible."""
        if not self.reproducible:
            return ""
        parts = {
            **asdict(self),
            "device": self.device.type,
            "numerics_version": NUMERICS_VERSION,
            # The sampler is torch's too, and the cosines of positions.
            "torch": torch.__version__.partition("+")[0],
            "threads": torch.get_num_threads(),  # some sums of one long row are cut among them
            "processor": _processor(self.device),
            "triton": _triton_version(self.device),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _processor(device: torch.device) -> str:
    """The GPU's name, or the vector instructions by which torch computes on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()


def _triton_version(device: torch.device) -> str:
    """The version of the kernels' compiler; none on a CPU."""
    has_kernels = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return version("triton") if has_kernels else ""

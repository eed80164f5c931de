"""Fingerprints: what an engine must have in common with this service."""

from dataclasses import dataclass
from pathlib import Path

from folovllm.model_files import chat_template_fingerprint, tokenizer_fingerprint
from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The fingerprints of this service's model, as an engine's GetModelInfo has its own."""

    tokenizer: str
    chat_template: str
    """Empty if the model has none."""

    @classmethod
    def from_folder(cls, folder: Path) -> "Fingerprints":
        """Those of a model's folder. Raises ConfigError."""
        return cls(tokenizer_fingerprint(folder), chat_template_fingerprint(folder))

    def mismatch(self, info: types_pb2.ModelInfo) -> str:
        """What differs between an engine's model and this one, in words; empty if nothing does.

        A missing tokenizer fingerprint never matches.
        """
        differences = []
        if not self.tokenizer or info.tokenizer_fingerprint != self.tokenizer:
            differences.append(("tokenizer", info.tokenizer_fingerprint, self.tokenizer))
        if info.chat_template_fingerprint != self.chat_template:
            differences.append(
                ("chat template", info.chat_template_fingerprint, self.chat_template)
            )
        return " and ".join(
            f"its {what}'s fingerprint is {theirs or 'missing'}, this service's is "
            f"{ours or 'missing'}"
            for what, theirs, ours in differences
        )

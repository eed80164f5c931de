"""TextModel: what this service loads from a model's folder."""

from dataclasses import dataclass
from pathlib import Path

from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextModel:
    """A model's text side, and the fingerprints that an engine of the same model has."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate
    fingerprints: Fingerprints

    @classmethod
    def from_folder(cls, folder: Path) -> "TextModel":
        """Reads a model's folder. Raises ConfigError."""
        return cls(
            Tokenizer.from_folder(folder),
            ChatTemplate.from_folder(folder),
            Fingerprints.from_folder(folder),
        )

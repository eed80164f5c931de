"""TextDelta: what ids of a growing sequence add to its text."""

from dataclasses import dataclass
from typing import Self

from folovllm.errors import ServerError
from folovllm.v1.tokenizer_service_pb2 import StreamDetokenizeResponse


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The text of more ids of a growing sequence."""

    text: str
    """New text that is certain, perhaps none."""
    num_token_ids: int
    """Ids read so far; after a stop string, those up to the one that completed it."""
    stop_string: str | None = None
    """The stop string that ended the text."""
    finished: bool = False
    """Nothing follows."""

    @classmethod
    def from_answer(cls, answer: object) -> Self:
        """Reads an answer. Raises ServerError for the end of the call, which the last precedes."""
        if not isinstance(answer, StreamDetokenizeResponse):
            raise ServerError("the server ended the text without its last message")
        stop = answer.stop_string if answer.HasField("stop_string") else None
        return cls(answer.text, answer.num_token_ids, stop, answer.finished)

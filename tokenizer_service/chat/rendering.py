"""Rendering: a request's conversation to text, bounded in size; what it takes depends on both.

The same in the service's own process, for small conversations, and in a child, for the others.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from folovllm.errors import FolovError, InvalidRequestError, from_status_bytes, to_status
from tokenizer_service.chat.conversation import ConversationRequest, read_conversation, request_from
from tokenizer_service.chat.template import ChatTemplate, import_transformers

_TEXT, _ERROR = b"t", b"e"


@dataclass(frozen=True, slots=True)
class Rendering:
    """A template, and the limit on a conversation's texts together and on what is rendered."""

    template: ChatTemplate
    max_bytes: int

    def render(self, request: ConversationRequest) -> str:
        """The text. Raises InvalidRequestError naming the field, and UnsupportedError."""
        text = self.template.render(read_conversation(request, self.max_bytes))
        try:
            num_bytes = len(text) if len(text) > self.max_bytes else len(text.encode())
        except UnicodeEncodeError:  # JSON can contain an unpaired surrogate, UTF-8 cannot
            raise InvalidRequestError("messages", "they hold text that is not Unicode") from None
        if num_bytes > self.max_bytes:
            raise InvalidRequestError(
                "messages", f"rendered they are over the limit of {self.max_bytes} bytes"
            )
        return text

    def setup(self) -> bytes:
        """What `prepare_rendering` makes the same of in a child."""
        template = self.template
        setup = {
            "text": template.text,
            "special_tokens": dict(template.special_tokens),
            "max_bytes": self.max_bytes,
        }
        return json.dumps(setup).encode()


def prepare_rendering(setup: bytes) -> Callable[[bytes], bytes]:
    """What a child does with what `request_bytes` made; `text_of` reads it."""
    import_transformers()
    given = json.loads(setup)
    template = ChatTemplate(given["text"], given["special_tokens"])
    rendering = Rendering(template, given["max_bytes"])

    def render(payload: bytes) -> bytes:
        try:
            return _TEXT + rendering.render(request_from(payload)).encode()
        except FolovError as error:
            status: bytes = to_status(error).SerializeToString()
            return _ERROR + status

    return render


def text_of(reply: bytes) -> str:
    """What was rendered. Raises what rendering raised in the child."""
    if reply[:1] == _ERROR:
        raise from_status_bytes(reply[1:])
    return reply[1:].decode()

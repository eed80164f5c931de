"""What an engine calls a request whose own name it cannot have there."""

from folovllm.request_id import random_uuid
from folovllm.serving.request_names import MAX_NAME_BYTES

_MARK = "~"


def other_name(name: str) -> str:
    """A name that nothing else has, which begins as `name` does."""
    mark = _MARK + random_uuid()
    begin = name.partition(_MARK)[0].encode()[: MAX_NAME_BYTES - len(mark)]
    return begin.decode(errors="ignore") + mark

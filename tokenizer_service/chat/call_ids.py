"""CallIds: names for the tool calls of an answer, the same wherever the answer is parsed."""

from hashlib import sha256


class CallIds:
    """Names the calls of one answer, in the order in which they begin.

    They are a function of the request's id, the answer's index and the call's number, so that a
    stream which goes on elsewhere has the same ones. The prompt counts too: a conversation whose
    turns all have one request_id has no name twice.
    """

    def __init__(self, request_id: str, prompt_fingerprint: str, index: int) -> None:
        self._answer = f"{prompt_fingerprint}/{index}/{request_id}"
        self._num_calls = 0

    def __call__(self) -> str:
        """The next call's name."""
        name = f"{self._num_calls}/{self._answer}"
        self._num_calls += 1
        return f"call_{sha256(name.encode()).hexdigest()[:24]}"

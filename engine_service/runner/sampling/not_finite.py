"""The error of a sequence for which the model computes what is not finite."""

from folovllm.errors import RequestFailedError


def not_finite(position: int) -> RequestFailedError:
    """`position` counts the tokens before the one that cannot be drawn."""
    return RequestFailedError(
        f"what the model computes for this request at position {position} is not finite, so no "
        "token can be drawn"
    )

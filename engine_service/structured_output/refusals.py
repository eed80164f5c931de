"""What callers are told of a grammar that cannot be served."""

from folovllm.errors import InvalidRequestError
from folovllm.parameters.structured_output import StructuredOutput


def refusal(name: str, message: str) -> InvalidRequestError:
    """The error for the grammar of a parameter: one line, without the grammar itself."""
    line = " ".join(message.replace("<non-verbose/>", "").split())
    return InvalidRequestError(f"sampling_params.{name}", f"{name}: {line[:400]}")


def no_grammars(output: StructuredOutput | None) -> InvalidRequestError:
    """The error of an engine without a vocabulary; with no output, reasoning was to be bound."""
    return refusal("reasoning" if output is None else output.kind, "this engine has no grammars")

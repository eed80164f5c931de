"""The state of a grammar where outputs are continued."""

from collections.abc import Sequence

from engine_service.core.continued import Continued
from engine_service.core.token_matcher import TokenMatcher
from folovllm.errors import InvalidRequestError


def matchers_after(
    start: TokenMatcher | None, continued: Continued
) -> tuple[TokenMatcher | None, ...]:
    """The state of a grammar after each of the outputs, by its state at the start.

    None if there is no grammar, or if it no longer constrains an output. Raises InvalidRequestError
    that names the output if one does not follow it, or is complete.
    """
    if start is None:
        return (None,) * len(continued.outputs)
    matchers = []
    for number, output in enumerate(continued.outputs):
        try:
            matchers.append(_matcher_after(start.copy(), output.token_ids))
        except InvalidRequestError as error:
            field = f"continued.outputs[{number}].token_ids"
            raise InvalidRequestError(field, f"cannot be continued: {error}") from None
    return tuple(matchers)


def _matcher_after(matcher: TokenMatcher, token_ids: Sequence[int]) -> TokenMatcher | None:
    for count, token_id in enumerate(token_ids, 1):
        matcher.advance(token_id)
        if matcher.must_stop:
            raise InvalidRequestError("token_ids", f"the structured output ends after {count} ids")
        if matcher.is_spent:
            return None
    return matcher

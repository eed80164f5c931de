"""CountTokens: the number of tokens of a text or of a conversation."""

from folovllm.errors import InvalidRequestError, errors_within
from folovllm.v1.tokenizer_service_pb2 import CountTokensRequest, CountTokensResponse
from tokenizer_service.handlers.services import Services


async def count_tokens(request: CountTokensRequest, services: Services) -> CountTokensResponse:
    """How many tokens there are."""
    match request.WhichOneof("input"):
        case "text":
            services.limits.check_text(request.text)
            token_ids = await services.offload.run(
                len(request.text), services.tokenizer.encode, request.text
            )
        case "conversation":
            with errors_within("conversation"):
                rendered = await services.renderer.render(request.conversation, services.caller)
                token_ids = rendered.token_ids
        case _:
            raise InvalidRequestError("input", "give what to count as text or as conversation")
    return CountTokensResponse(num_tokens=len(token_ids))

"""The call that counts the tokens of a text or of a conversation: CountTokens."""

from folovllm.errors import InvalidRequestError
from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.text.codec import Codec


async def count_tokens(
    request: messages.CountTokensRequest, codec: Codec, renderer: Renderer
) -> messages.CountTokensResponse:
    """How many tokens there are. Raises InvalidRequestError, and as Renderer.render."""
    match request.WhichOneof("input"):
        case "text":
            codec.check_text(request.text)
            token_ids = await codec.encode(request.text)
        case "conversation":
            token_ids = await _token_ids_of(request.conversation, renderer)
        case _:
            raise InvalidRequestError("input", "give what to count as text or as conversation")
    return messages.CountTokensResponse(num_tokens=len(token_ids))


async def _token_ids_of(
    conversation: messages.ApplyChatTemplateRequest, renderer: Renderer
) -> list[int]:
    try:
        rendered = await renderer.render(await renderer.read(conversation))
    except InvalidRequestError as error:
        raise error.within("conversation") from None
    return rendered.token_ids

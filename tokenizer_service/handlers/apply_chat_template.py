"""The call that shows a conversation as the model would see it: ApplyChatTemplate."""

from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.text.codec import check_answer


async def apply_chat_template(
    request: messages.ApplyChatTemplateRequest, renderer: Renderer
) -> messages.ApplyChatTemplateResponse:
    """The conversation's text and token ids. Raises as Renderer.render."""
    rendered = await renderer.render(await renderer.read(request))
    response = messages.ApplyChatTemplateResponse(text=rendered.text, token_ids=rendered.token_ids)
    check_answer(response, "messages")
    return response

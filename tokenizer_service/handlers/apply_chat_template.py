"""ApplyChatTemplate: a conversation as the model would see it."""

from folovllm.v1.tokenizer_service_pb2 import ApplyChatTemplateRequest, ApplyChatTemplateResponse
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.limits import check_response_size


async def apply_chat_template(
    request: ApplyChatTemplateRequest, services: Services
) -> ApplyChatTemplateResponse:
    """The conversation's text and token ids."""
    rendered = await services.renderer.render(request, services.caller)
    response = ApplyChatTemplateResponse(text=rendered.text, token_ids=rendered.token_ids)
    check_response_size(response, "messages")
    return response

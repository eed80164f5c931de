"""Detokenize: whole sequences of token ids to texts."""

from folovllm.v1.tokenizer_service_pb2 import DetokenizeRequest, DetokenizeResponse
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.limits import check_response_size
from tokenizer_service.text.offload import batch_size, offload_if_large
from tokenizer_service.text.tokenizer import Tokenizer, check_token_ids


async def detokenize(request: DetokenizeRequest, services: Services) -> DetokenizeResponse:
    """The texts of sequences."""
    services.limits.check_batch([len(each.ids) for each in request.sequences], "sequences")
    size = batch_size(each.ids for each in request.sequences)
    return await offload_if_large(
        size, _detokenize, request, services.tokenizer, services.vocab_size
    )


def _detokenize(
    request: DetokenizeRequest, tokenizer: Tokenizer, vocab_size: int
) -> DetokenizeResponse:
    sequences = [list(sequence.ids) for sequence in request.sequences]
    for index, token_ids in enumerate(sequences):
        check_token_ids(token_ids, vocab_size, f"sequences[{index}]")
    skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
    response = DetokenizeResponse(
        texts=[tokenizer.decode_known(token_ids, skip) for token_ids in sequences]
    )
    check_response_size(response, "sequences")
    return response

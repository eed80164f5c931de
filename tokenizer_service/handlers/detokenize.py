"""The call that turns whole sequences of token ids into text: Detokenize."""

from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.text.codec import Codec, check_answer, off_loop, size_of_batch
from tokenizer_service.text.tokenizer import Tokenizer, check_token_ids


async def detokenize(
    request: messages.DetokenizeRequest, codec: Codec, vocab_size: int
) -> messages.DetokenizeResponse:
    """The texts of sequences of ids below `vocab_size`. Raises InvalidRequestError."""
    codec.check_batch([len(sequence.ids) for sequence in request.sequences], "sequences")
    size = size_of_batch(sequence.ids for sequence in request.sequences)
    return await off_loop(size, _detokenize, request, codec.tokenizer, vocab_size)


def _detokenize(
    request: messages.DetokenizeRequest, tokenizer: Tokenizer, vocab_size: int
) -> messages.DetokenizeResponse:
    sequences = [list(sequence.ids) for sequence in request.sequences]
    for place, token_ids in enumerate(sequences):
        check_token_ids(token_ids, vocab_size, f"sequences[{place}]")
    skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
    response = messages.DetokenizeResponse(
        texts=[tokenizer.decode_known(token_ids, skip) for token_ids in sequences]
    )
    check_answer(response, "sequences")
    return response

"""What Generate, Chat and Fork exchange with the engine: token ids for it, the text stays here."""

from collections.abc import Sequence

from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2, types_pb2
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.bad_words import resolve_bad_words
from tokenizer_service.text.offload import part_size
from tokenizer_service.text.tokenizer import Tokenizer

# Token ids that are converted without taking a turn, and positions with log-probabilities, which
# may have 21 candidates each.
_MAX_SHORT = 256
_MAX_SHORT_POSITIONS = 32
# One with more of either has more bytes than that, which are counted first, since that is cheap.
_SHORT_BYTES = 2 * _MAX_SHORT_POSITIONS


async def generate_command(
    request: tokenizer_service_pb2.GenerateRequest | tokenizer_service_pb2.ChatRequest,
    request_id: str,
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    services: Services,
) -> engine_service_pb2.SessionCommand:
    """The command that begins a request at an engine. `params` are the request's.

    Raises InvalidRequestError naming `prompt_token_ids` if they are too many; everything else is
    checked by the engine.
    """
    max_model_len = services.engines.model_info().max_model_len
    if len(prompt_token_ids) >= max_model_len:
        raise InvalidRequestError(
            "prompt_token_ids",
            f"the prompt has {len(prompt_token_ids)} tokens; with one to generate the model takes "
            f"at most {max_model_len}",
        )
    command = engine_service_pb2.SessionCommand()
    sent = command.generate  # filled in place: a prompt is copied only once
    sent.request_id = request_id
    sent.prompt_token_ids.extend(prompt_token_ids)
    sent.priority = request.priority
    sent.cache_salt = request.cache_salt
    await services.offload.run(
        sum(map(part_size, params.bad_words)) + request.sampling_params.ByteSize(),
        copy_without_text,
        request.sampling_params,
        sent.sampling_params,
        params,
        services.tokenizer,
    )
    settle_seed(sent.sampling_params, services)
    return command


def settle_seed(params: types_pb2.SamplingParams, services: Services) -> None:
    """Draws a seed if there is none, so that any engine draws the same tokens."""
    if not params.HasField("seed"):
        params.seed = services.new_seed()


def copy_without_text(
    source: types_pb2.SamplingParams,
    target: types_pb2.SamplingParams,
    params: SamplingParams,
    tokenizer: Tokenizer,
) -> None:
    """Copies sampling parameters for the engine: bad words as ids, no stop strings.

    `params` are the same as `source`. Fields that are not set stay so: for these the engine has
    the model's defaults. Raises InvalidRequestError if there are too many bad words.
    """
    target.CopyFrom(source)
    for name in ("stop", "bad_words", "bad_words_token_ids"):
        target.ClearField(name)
    for ids in resolve_bad_words(params, tokenizer).bad_words_token_ids:
        target.bad_words_token_ids.add(ids=ids)


def is_long(output: types_pb2.CompletionOutput) -> bool:
    """Whether an output takes so long to convert that it needs a turn; see Turns."""
    return output.ByteSize() > _SHORT_BYTES and (
        len(output.token_ids) > _MAX_SHORT or len(output.logprobs) > _MAX_SHORT_POSITIONS
    )

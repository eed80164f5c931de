"""Reads the `resume` of a request, step by step as what it is compared with becomes known."""

from collections.abc import Iterator
from typing import TypeVar

from folovllm.chat_outputs import ChatOutput
from folovllm.errors import (
    CancelledRequestError,
    InvalidRequestError,
    ModelMismatchError,
    errors_within,
)
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from folovllm.v1.tokenizer_service_pb2 import ChatRequest, GenerateRequest
from tokenizer_service.handlers.resuming.ending import EndingRules
from tokenizer_service.handlers.resuming.received import check_outputs, read_received
from tokenizer_service.handlers.resuming.resumption import Processor, Resumption
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.prompt import Prompt

Reply = TypeVar("Reply", CompletionOutput, ChatOutput)


def take_resume(request: GenerateRequest | ChatRequest) -> types_pb2.Resume | None:
    """What a request goes on with; None if it begins anew, since nothing was received.

    Checks what takes no time. Raises InvalidRequestError. The request's own sampling_params are not
    read, and are cleared.
    """
    if not request.HasField("resume"):
        return None
    resume = request.resume
    if not request.request_id:
        raise InvalidRequestError("request_id", "must be set with resume: that of the messages")
    if not resume.outputs:
        return None
    for field, is_set in (
        ("seed", resume.sampling_params.HasField("seed")),
        ("max_tokens", resume.sampling_params.HasField("max_tokens")),
    ):
        if not is_set:
            raise InvalidRequestError(
                f"resume.sampling_params.{field}", "must be set; give the parameters of RequestInfo"
            )
    check_outputs(resume, max(1, resume.sampling_params.n))
    request.ClearField("sampling_params")
    return resume


def requested_params(
    request: GenerateRequest | ChatRequest,
    resume: types_pb2.Resume | None,
    defaults: SamplingParams | None = None,
) -> SamplingParams:
    """A request's parameters; of a resumed one, those that it was resolved to become its own."""
    if resume is None:
        return SamplingParams.from_proto(request.sampling_params, defaults)
    with errors_within("resume.sampling_params"):
        params = SamplingParams.from_proto(resume.sampling_params)
    request.sampling_params.CopyFrom(resume.sampling_params)
    return params


async def replay_received(
    resumption: Resumption[Reply],
    resume: types_pb2.Resume,
    prompt: Prompt,
    processor: Processor[Reply],
    services: Services,
) -> None:
    """Checks what was received against the prompt and the model, and has it taken.

    Raises ModelMismatchError if the prompt has another fingerprint than the one given,
    InvalidRequestError, and UnavailableError if no engine is ready.
    """
    if resume.prompt_fingerprint != prompt.fingerprint:
        raise ModelMismatchError(
            f"resume.prompt_fingerprint is {resume.prompt_fingerprint!r}, but the prompt's is "
            f"{prompt.fingerprint!r}: it is another prompt, or another model's"
        )
    info = services.engines.model_info()
    params = resumption.params
    room = info.max_model_len - len(prompt.token_ids)
    max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
    rules = EndingRules(params, frozenset(info.eos_token_ids), max_tokens)
    vocab_size = services.vocab_size

    def steps() -> Iterator[int]:
        yield sum(len(output.token_ids) for output in resume.outputs)
        yield from resumption.replay(read_received(resume, rules, vocab_size), processor)

    await services.offload.run_steps(steps())


def end_predecessor(request: GenerateRequest | ChatRequest, services: Services) -> None:
    """Ends the stream that a request replaces, if it still runs; its engine stops computing it."""
    if request.HasField("resume"):
        stream = services.engines.find(request.request_id)
        if stream is not None:
            stream.end(CancelledRequestError("the stream was resumed by another call"))

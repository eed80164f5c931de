"""Fork: the branches of a running request, from the caller's message to the engine's and back."""

from collections.abc import AsyncGenerator

import structlog

from folovllm.errors import InvalidRequestError, errors_within
from folovllm.request_id import new_request_id
from folovllm.sampling_params import MAX_N, SamplingParams
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.handlers.engine_messages import copy_without_text, detach_info
from tokenizer_service.handlers.generate import text_replies
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.tokenizer import Tokenizer


async def fork(
    request: types_pb2.ForkRequest, services: Services
) -> AsyncGenerator[types_pb2.CompletionOutput, None]:
    """The deltas of the branches."""
    fork_id = request.fork_id or new_request_id()
    structlog.contextvars.bind_contextvars(request_id=fork_id, parent=request.request_id)
    command = engine_service_pb2.SessionCommand()
    command.fork.request_id = request.request_id
    command.fork.index = request.index
    command.fork.fork_id = fork_id
    params = await services.offload.run(
        request.ByteSize(), _add_branches, command.fork, request, services.tokenizer
    )
    processors: dict[int, OutputProcessor] = {}
    infos: dict[int, types_pb2.RequestInfo] = {}
    with services.engines.fork(command) as stream:
        async for output in stream:
            index = output.index
            if index not in processors:  # the first output has the tokens that the branch continues
                preceding = tuple(output.info.parent_output_token_ids)
                processors[index] = OutputProcessor(services.tokenizer, params[index], preceding)
            if output.HasField("info"):
                infos[index] = detach_info(output, params[index])
            for reply in text_replies(output, processors[index], stream):
                if index in infos:
                    reply.info.CopyFrom(infos.pop(index))
                yield reply


def _add_branches(
    target: types_pb2.ForkRequest, request: types_pb2.ForkRequest, tokenizer: Tokenizer
) -> list[SamplingParams]:
    """Adds the branches for the engine; returns their parameters."""
    if not 1 <= len(request.branches) <= MAX_N:
        raise InvalidRequestError(
            "branches", f"give 1 to {MAX_N} branches, got {len(request.branches)}"
        )
    branches = []
    for index, branch in enumerate(request.branches):
        with errors_within(f"branches[{index}]"):
            params = SamplingParams.from_proto(branch)
            copy_without_text(branch, target.branches.add(), params, tokenizer)
        branches.append(params)
    return branches

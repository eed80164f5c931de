"""Fork: the branches of a running request, from the caller's message to the engine's and back."""

from collections import deque
from collections.abc import AsyncGenerator, Generator

import structlog

from folovllm.errors import errors_within
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.serving.turns import LONG_BYTES
from folovllm.v1 import engine_service_pb2, types_pb2
from tokenizer_service.handlers.engine_messages import copy_without_text, is_long, settle_seed
from tokenizer_service.handlers.generate import Piece, text_replies
from tokenizer_service.handlers.info_relay import InfoRelay, has_more
from tokenizer_service.handlers.services import Services
from tokenizer_service.text.output_processor import OutputProcessor

# Of the tokens that a branch goes on with, only the latest ones can affect its text.
_MAX_PRECEDING = 1024
# What it takes to encode a bad word beyond its length, in bytes of other parameters.
_WORD_BYTES = 256


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
    params = await services.turns.run(_add_branches(command.fork, request, services))
    relays = [InfoRelay(each) for each in params]
    preceding: dict[int, deque[int]] = {}
    processors: dict[int, OutputProcessor] = {}
    with services.engines.fork(command) as stream:
        async for output in stream:
            index = output.index
            if is_long(output):
                await services.turns.take()
            if output.HasField("info"):
                parent_ids = output.info.parent_output_token_ids[-_MAX_PRECEDING:]
                preceding.setdefault(index, deque(maxlen=_MAX_PRECEDING)).extend(parent_ids)
                for part in relays[index].take(output):
                    yield Piece(request_id=fork_id, index=index, info=part)
                if not has_more(output):
                    continue
            if index not in processors:
                before = tuple(preceding.pop(index, ()))
                processors[index] = OutputProcessor(services.tokenizer, params[index], before)
            for reply in text_replies(output, processors[index], stream):
                relays[index].attach(reply)
                yield reply


def _add_branches(
    target: types_pb2.ForkRequest, request: types_pb2.ForkRequest, services: Services
) -> Generator[None, None, list[SamplingParams]]:
    """Adds the branches for the engine, in steps if they are long; returns their parameters."""
    branches, size = [], 0
    for index, branch in enumerate(request.branches):
        branch_size = branch.ByteSize() + _WORD_BYTES * len(branch.bad_words)
        if size and size + branch_size > LONG_BYTES:
            yield
            size = 0
        size += branch_size
        with errors_within(f"branches[{index}]"):
            params = SamplingParams.from_proto(branch)
            sent = target.branches.add()
            copy_without_text(branch, sent, params, services.tokenizer)
            settle_seed(sent, services)
        branches.append(params)
    return branches

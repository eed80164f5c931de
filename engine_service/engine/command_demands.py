"""What commands demand of an engine, for its admission, and when they came."""

from dataclasses import replace

from engine_service.engine.commands import Fork, Score, StreamCommand
from engine_service.overload.demand import Demand
from folovllm.model_info import ModelInfo

# Host memory of a token, of a request and of each of its sequences.
_TOKEN_BYTES, _REQUEST_BYTES, _SEQUENCE_BYTES = 8, 2048, 1024


def demand_of(command: StreamCommand, parent_length: int, info: ModelInfo) -> Demand:
    """What a command that was checked may cost.

    `parent_length` is the max_length of what a fork branches. Takes no longer for a long prompt.
    """
    if isinstance(command, Score):
        scored = command.request
        num_tokens = len(scored.prompt_token_ids) + sum(map(len, scored.continuations))
        return Demand(_num_bytes(num_tokens, command.num_outputs), num_tokens)
    most = info.max_model_len
    if isinstance(command, Fork):
        num_prompt_tokens, length = 0, parent_length
        max_tokens = max(each.sampling_params.max_tokens or most for each in command.branches)
    else:
        num_prompt_tokens = length = len(command.request.prompt_token_ids)
        max_tokens = command.request.sampling_params.max_tokens or most
    return Demand(
        _num_bytes(length, command.num_outputs),
        num_prompt_tokens,
        command.num_outputs,
        min(max_tokens, most - length),
        min(length + max_tokens, most),
    )


def arrival_of(command: StreamCommand) -> float:
    """When it came."""
    return command.arrival_time if isinstance(command, Fork) else command.request.arrival_time


def arrived_at(command: StreamCommand, time: float) -> StreamCommand:
    """The command as if it had come at that time."""
    if arrival_of(command) == time:
        return command
    if isinstance(command, Fork):
        return replace(command, arrival_time=time)
    if isinstance(command, Score):
        return replace(command, request=replace(command.request, arrival_time=time))
    return replace(command, request=replace(command.request, arrival_time=time))


def _num_bytes(num_tokens: int, num_sequences: int) -> int:
    return num_tokens * _TOKEN_BYTES + _REQUEST_BYTES + num_sequences * _SEQUENCE_BYTES

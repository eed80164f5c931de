"""What commands demand of an engine, for its admission, and when they came."""

from dataclasses import replace

from engine_service.engine.commands import Fork, Score, StreamCommand
from engine_service.engine.request_cost import fork_cost, request_cost, score_cost
from engine_service.overload.demand import Demand
from engine_service.overload.ticket import Ticket
from folovllm.model_info import ModelInfo


def demand_of(command: StreamCommand, parent_length: int, info: ModelInfo) -> Demand:
    """What a command that was checked may cost.

    `parent_length` is the max_length of what a fork branches. Takes no longer for a long prompt.
    """
    if isinstance(command, Score):
        cost = score_cost(command.request)
        return Demand(cost.num_bytes, cost.num_kv_tokens)
    most = info.max_model_len
    if isinstance(command, Fork):
        cost = fork_cost(parent_length, command.branches, most)
        max_tokens = max(each.sampling_params.max_tokens or most for each in command.branches)
        num_prompt_tokens, length = 0, parent_length
    else:
        cost = request_cost(command.request, most)
        max_tokens = command.request.sampling_params.max_tokens or most
        num_prompt_tokens = length = len(command.request.prompt_token_ids)
        if command.request.continued is not None:
            num_prompt_tokens += command.request.continued.num_tokens
    return Demand(
        cost.num_bytes,
        num_prompt_tokens,
        command.num_outputs,
        max_tokens=min(max_tokens, most - length),
        max_length=min(length + max_tokens, most),
    )


def arrival_of(command: StreamCommand) -> float:
    """When it came."""
    return command.arrival_time if isinstance(command, Fork) else command.request.arrival_time


def placed(command: StreamCommand, ticket: Ticket) -> StreamCommand:
    """The command with the place in the queue that it was admitted to.

    A fork has none: it runs at once, if its parent does.
    """
    if isinstance(command, Fork):
        return replace(command, arrival_time=ticket.arrival_time)
    place = ticket.arrival_time, ticket.handicap
    if place == (command.request.arrival_time, command.request.handicap):
        return command
    if isinstance(command, Score):
        arrival_time, handicap = place
        scored = replace(command.request, arrival_time=arrival_time, handicap=handicap)
        return replace(command, request=scored)
    arrival_time, handicap = place
    request = replace(command.request, arrival_time=arrival_time, handicap=handicap)
    return replace(command, request=request)

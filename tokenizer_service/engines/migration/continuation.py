"""What an engine is sent so that it begins a stream's continuations, or goes on with them."""

from collections.abc import Sequence

from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from tokenizer_service.engines.migration.origin import Command, ForkOrigin, Origin
from tokenizer_service.engines.migration.progress import Progress, ReceivedInfo


def begin_anew(origin: Origin) -> Command:
    """A request of which nothing has come, as it was asked for."""
    command = Command()
    command.CopyFrom(origin.command)
    return command


def go_on(
    origin: Origin,
    indexes: Sequence[int],
    progress: Sequence[Progress],
    infos: Sequence[ReceivedInfo],
    defaults: types_pb2.SamplingParams,
) -> Command:
    """A request that goes on with those of its continuations that have not ended.

    `defaults` are the model's, for parameters of which no engine has said how they were resolved.
    """
    command = _command(origin, _resolved(origin, indexes[0], infos, defaults))
    command.generate.prompt_token_ids.extend(origin.prompt_token_ids)
    for index in indexes:
        _add_output(command.generate.continued, index, progress[index])
    return command


def go_on_branch(
    origin: ForkOrigin,
    index: int,
    progress: Sequence[Progress],
    infos: Sequence[ReceivedInfo],
    defaults: types_pb2.SamplingParams,
) -> Command | None:
    """The same for a branch of a fork; None if it is not known what it began with."""
    parent_token_ids = origin.parent_token_ids(infos)
    if parent_token_ids is None:
        return None
    command = _command(origin, _resolved(origin, index, infos, defaults))
    command.generate.prompt_token_ids.extend(origin.prompt_token_ids)
    command.generate.prompt_token_ids.extend(parent_token_ids)
    continued = command.generate.continued
    continued.num_parent_output_tokens = len(parent_token_ids)
    continued.branch_index = index
    _add_output(continued, 0, progress[index])  # it draws as a request of its own
    return command


def _command(origin: Origin, params: types_pb2.SamplingParams) -> Command:
    command = Command()
    command.generate.sampling_params.CopyFrom(params)
    command.generate.priority = origin.priority
    command.generate.cache_salt = origin.cache_salt
    return command


def _resolved(
    origin: Origin,
    index: int,
    infos: Sequence[ReceivedInfo],
    defaults: types_pb2.SamplingParams,
) -> types_pb2.SamplingParams:
    """A continuation's parameters without any that are not set."""
    info = infos[index].info
    if info is not None:
        return info.sampling_params
    if origin.goes_on:
        return origin.params(index)
    resolved = SamplingParams.from_proto(origin.params(index), SamplingParams.from_proto(defaults))
    return resolved.to_proto()


def _add_output(continued: types_pb2.Continued, index: int, progress: Progress) -> None:
    continued.outputs.add(index=index, token_ids=progress.token_ids, logprobs=progress.logprobs)

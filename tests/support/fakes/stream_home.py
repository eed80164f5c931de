"""StreamHome: what a stream's part asks of its session, recorded."""

from collections.abc import Callable, Sequence

from folovllm.v1 import engine_service_pb2
from tokenizer_service.engines.migration.attempts import Failure
from tokenizer_service.engines.migration.origin import Origin
from tokenizer_service.engines.part import Part
from tokenizer_service.engines.stream import EngineStream

Command = engine_service_pb2.SessionCommand


class StreamHome:
    """`aborted` has the indexes to abort, `cancelled` the names of streams that were left."""

    takes_requests = True

    def __init__(self, address: str = "there:1") -> None:
        self.address = address
        self.aborted: list[int] = []
        self.cancelled: list[str] = []

    def abort(self, part: Part, indexes: Sequence[int]) -> None:
        self.aborted += indexes

    def cancel(self, part: Part) -> None:
        self.cancelled.append(part.stream.name)

    def fork(self, part: Part, command: Command, name: str, parent: Part) -> None:
        raise AssertionError("forked")


def end_stream(part: Part, failure: Failure) -> None:
    """What fails does not go on."""
    part.stream.end(failure.error)


def make_part(
    name: str = "r",
    n: int = 1,
    on_failure: Callable[[Part, Failure], None] = end_stream,
) -> Part:
    """The only part of a new stream of ten prompt tokens, which no session has yet."""
    command = Command()
    command.generate.request_id = name
    command.generate.prompt_token_ids.extend(range(1, 11))
    command.generate.sampling_params.n = n
    command.generate.sampling_params.seed = 7
    command.generate.sampling_params.logprobs = 0
    stream = EngineStream(Origin(command, arrival=0.0))
    return Part(stream, range(n), on_failure)

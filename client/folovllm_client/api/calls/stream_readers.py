"""How the messages of a stream are read: a long RequestInfo comes in several and is joined."""

from collections.abc import Callable

from folovllm.chat_outputs import ChatOutput
from folovllm.outputs import CompletionOutput, RequestInfo, join_info
from folovllm.v1 import tokenizer_service_pb2, types_pb2


class _JoinedInfos:
    """The parts of infos that have come by themselves, by index."""

    def __init__(self) -> None:
        self._parts: dict[int, RequestInfo] = {}

    def keep(self, index: int, part: types_pb2.RequestInfo) -> None:
        self._parts[index] = join_info(self._parts.get(index), RequestInfo.from_proto(part))

    def give(self, output: CompletionOutput | ChatOutput) -> None:
        """Adds them to the first output that has more, if there are any."""
        if output.index in self._parts:
            info = self._parts.pop(output.index)
            output.info = info if output.info is None else info.joined(output.info)


def completion_reader() -> Callable[[types_pb2.CompletionOutput], CompletionOutput | None]:
    """Reads the messages of one Generate or Fork; None for a part that belongs to the next one."""
    infos = _JoinedInfos()

    def read(message: types_pb2.CompletionOutput) -> CompletionOutput | None:
        if message.HasField("info") and not (message.token_ids or message.finish_reason):
            infos.keep(message.index, message.info)
            return None
        output = CompletionOutput.from_proto(message)
        infos.give(output)
        return output

    return read


def chat_reader() -> Callable[[tokenizer_service_pb2.ChatOutput], ChatOutput | None]:
    """The same for one Chat."""
    infos = _JoinedInfos()

    def read(message: tokenizer_service_pb2.ChatOutput) -> ChatOutput | None:
        if message.WhichOneof("event") is None and message.HasField("info"):
            infos.keep(message.index, message.info)
            return None
        output = ChatOutput.from_proto(message)
        infos.give(output)
        return output

    return read

"""EngineCalls: what a replay asks of an engine service directly."""

from collections.abc import Sequence
from contextlib import closing

from folovllm.errors import QueueFullError
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.records.comparison import repeated_params
from folovllm.records.record import Record, RecordKind
from folovllm.request_id import new_request_id
from folovllm.score import ScoreOutput
from folovllm.v1 import types_pb2
from folovllm_client.api.calls.patience import Patience
from folovllm_client.api.calls.stream_readers import completion_reader
from folovllm_client.api.calls.sync_calls import pause
from folovllm_client.api.sync_client import Client
from folovllm_client.cli.console import UNARY_TIMEOUT


class EngineCalls(Client):
    """A connection to an engine service."""

    def repeat(self, record: Record) -> Sequence[CompletionOutput]:
        """The outputs of a recorded request. What there is no room for is sent again at its turn.

        Raises FolovError.
        """
        request, patience = engine_request(record), Patience(None)
        while True:
            output = RequestOutput()
            pieces = self._stream(self._engine.Generate, request, None, completion_reader())
            try:
                with closing(pieces):
                    for piece in pieces:
                        output.add(piece)
                return output.outputs
            except QueueFullError as refusal:
                seconds = patience.delay(refusal)
            with self._errors(None):
                pause(seconds, self._calls)

    def score_ids(self, prefix: Sequence[int], token_ids: Sequence[int]) -> ScoreOutput:
        """How probable each of the tokens is after the prefix. Raises FolovError."""
        request = types_pb2.ScoreRequest(token_ids=types_pb2.TokenIds(ids=prefix))
        for token_id in token_ids:
            request.continuations.add().token_ids.ids.append(token_id)
        return ScoreOutput.from_proto(self._call(self._engine.Score, request, UNARY_TIMEOUT))


def engine_request(record: Record) -> types_pb2.Request:
    """A recorded request for an engine; a branch goes on after its parent's output."""
    request = types_pb2.Request(
        request_id=new_request_id(),
        prompt_token_ids=record.prompt_token_ids,
        sampling_params=repeated_params(record.sampling_params, record.outputs),
    )
    if record.kind is RecordKind.BRANCH:
        request.continued.num_parent_output_tokens = record.num_parent_output_tokens
        request.continued.outputs.add(index=0)
    return request

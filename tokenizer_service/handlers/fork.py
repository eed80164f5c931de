"""ForkCall: one call of Fork, from the caller's message to the engine's and back to text."""

from collections.abc import AsyncGenerator
from dataclasses import replace

from folovllm.errors import InvalidRequestError
from folovllm.outputs import CompletionOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import MAX_N, SamplingParams
from folovllm.v1 import types_pb2
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.text.bad_words import resolve_bad_words
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.tokenizer import Tokenizer


class ForkCall:
    """The branches of a running request. Raises InvalidRequestError when made."""

    def __init__(self, request: types_pb2.ForkRequest, tokenizer: Tokenizer) -> None:
        self.fork_id = request.fork_id or new_request_id()
        if not 1 <= len(request.branches) <= MAX_N:
            raise InvalidRequestError(
                "branches", f"give 1 to {MAX_N} branches, got {len(request.branches)}"
            )
        self._tokenizer = tokenizer
        self._params: list[SamplingParams] = []
        self._engine_request = types_pb2.ForkRequest(
            request_id=request.request_id, index=request.index, fork_id=self.fork_id
        )
        self._processors: dict[int, OutputProcessor] = {}
        for place, branch in enumerate(request.branches):
            try:
                self._add(branch)
            except InvalidRequestError as error:
                raise error.within(f"branches[{place}]") from None

    async def outputs(self, engines: EnginePool) -> AsyncGenerator[CompletionOutput, None]:
        """What the engine brings, as text too. Raises FolovError; closing it ends the branches."""
        with engines.fork(self._engine_request) as run:
            async for message in run:
                delta = CompletionOutput.from_proto(message)
                processed = self._processor(delta).process(delta)
                if processed.stopped_index is not None:
                    run.abort([processed.stopped_index])
                for output in processed.outputs:
                    yield self._with_text_params(output)

    def _add(self, message: types_pb2.SamplingParams) -> None:
        params = SamplingParams.from_proto(message)
        resolved = resolve_bad_words(params, self._tokenizer).to_proto()
        # As it came: for what is not set the engine takes the model's defaults, not ours.
        branch = self._engine_request.branches.add()
        branch.CopyFrom(message)
        for name in ("stop", "bad_words", "bad_words_token_ids"):
            branch.ClearField(name)
        branch.bad_words_token_ids.extend(resolved.bad_words_token_ids)
        self._params.append(params)

    def _processor(self, delta: CompletionOutput) -> OutputProcessor:
        """That of a delta's branch; the first delta tells what the branch goes on with."""
        if delta.index not in self._processors:
            preceding = () if delta.info is None else delta.info.parent_output_token_ids
            self._processors[delta.index] = OutputProcessor(
                self._tokenizer, self._params[delta.index], preceding
            )
        return self._processors[delta.index]

    def _with_text_params(self, output: CompletionOutput) -> CompletionOutput:
        """Adds to the engine's account of a branch what only this service knows."""
        if output.info is None:
            return output
        params = self._params[output.index]
        told = output.info.sampling_params.clone(stop=params.stop, bad_words=params.bad_words)
        return replace(output, info=replace(output.info, sampling_params=told))

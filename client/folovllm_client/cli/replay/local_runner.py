"""LocalRunner: recorded requests run again by a model in this process."""

from collections import deque
from collections.abc import Iterator, Sequence

from folovllm.errors import InvalidRequestError
from folovllm.outputs import RequestInfo, RequestOutput
from folovllm.records.comparison import repeated_params
from folovllm.records.record import Record, RecordKind
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.vllm_names import RequestOutputKind
from folovllm_client.api.prompt_parts import PromptParts
from folovllm_client.cli.local_model import LocalModelOptions
from folovllm_client.cli.replay.runner import Rerun
from folovllm_client.llm.llm import LLM


class LocalRunner:
    """Runs `concurrency` requests in one batch. Raises ConfigError if the model cannot load."""

    def __init__(self, options: LocalModelOptions, concurrency: int) -> None:
        self.place = "this process"
        self._llm = LLM(
            options.model,
            dtype=options.dtype,
            quantization=options.quantization,
            device=options.device,
        )
        self.info = self._llm.model_info
        self._concurrency = concurrency
        self._ended: deque[RequestOutput] = deque()

    def run(self, records: Iterator[tuple[int, Record]]) -> Iterator[Rerun]:
        """See Runner; in the order in which they end."""
        engine = self._llm.llm_engine
        running: dict[str, tuple[int, Record]] = {}
        try:
            while True:
                while len(running) < self._concurrency and (following := next(records, None)):
                    line, record = following
                    try:
                        self._add(str(line), record)
                    except InvalidRequestError as error:
                        yield Rerun(line, record, problem=str(error))
                    else:
                        running[str(line)] = following
                if not running:
                    return
                self._ended += engine.step()
                while self._ended:  # more may come while whoever takes one lets it be scored
                    output = self._ended.popleft()
                    yield Rerun(*running.pop(output.request_id), output.outputs)
        finally:
            engine.abort_request(running)

    def score(self, prefix: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """See Runner. What else runs goes on meanwhile."""
        engine, name = self._llm.llm_engine, new_request_id()
        continuations = [PromptParts.read([token_id]) for token_id in token_ids]
        _, request = engine.requests.scores(PromptParts.read([*prefix]), continuations)
        state = engine.add_scores(name, request)
        while not state.finished:
            self._ended += engine.step()
        return [score.logprobs[0] for score in state.scores]

    def can_run(self, record: Record) -> str:
        """See Runner."""
        return ""

    def _add(self, name: str, record: Record) -> None:
        params = SamplingParams.from_proto(
            repeated_params(record.sampling_params, record.outputs)
        ).clone(output_kind=RequestOutputKind.FINAL_ONLY)
        prompt = [*record.prompt_token_ids]
        if record.kind is RecordKind.REQUEST:
            self._llm.llm_engine.add_request(name, prompt, params)
            return
        # A branch is a request that goes on after its parent's output, with none of its own so far.
        parents = tuple(prompt[len(prompt) - record.num_parent_output_tokens :])
        info = RequestInfo(params, prompt_tokens=len(prompt), parent_output_token_ids=parents)
        self._llm.llm_engine.resume_request(name, RequestOutput("", None, prompt, info=info))

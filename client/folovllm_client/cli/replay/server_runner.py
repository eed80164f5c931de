"""ServerRunner: recorded requests sent to a server, a tokenizer service or an engine service."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from folovllm.errors import InvalidRequestError, NotFoundError, UnsupportedError
from folovllm.outputs import CompletionOutput
from folovllm.records.comparison import repeated_params
from folovllm.records.record import Record, RecordKind
from folovllm.sampling_params import SamplingParams
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm_client.api.sync_client import Client
from folovllm_client.cli.console import UNARY_TIMEOUT
from folovllm_client.cli.replay.engine_calls import EngineCalls
from folovllm_client.cli.replay.runner import Rerun


class ServerRunner:
    """Sends `concurrency` requests at a time. Raises FolovError if no server answers."""

    def __init__(self, address: str, concurrency: int) -> None:
        self.place = address
        self._is_engine = False
        with Client(address, UNARY_TIMEOUT) as client:
            self.info = client.model_info()
            with suppress(NotFoundError, UnsupportedError):
                client.health(ENGINE_SERVICE)
                self._is_engine = True
        self._client = EngineCalls(address)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="replay")
        self._window = 2 * concurrency

    def __enter__(self) -> "ServerRunner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs."""
        self._client.close()
        self._threads.shutdown(cancel_futures=True)

    def run(self, records: Iterator[tuple[int, Record]]) -> Iterator[Rerun]:
        """See Runner; in the order of the records."""
        running: deque[Future[Rerun]] = deque()
        for line, record in records:
            running.append(self._threads.submit(self._run_one, line, record))
            if len(running) >= self._window:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def score(self, prefix: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        """See Runner."""
        if self._is_engine:
            scores = self._client.score_ids(prefix, token_ids)
        else:
            continuations = [[token_id] for token_id in token_ids]
            scores = self._client.score([*prefix], continuations, timeout=UNARY_TIMEOUT)
        return [each.logprobs[0] for each in scores.continuations]

    def can_run(self, record: Record) -> str:
        """See Runner: a tokenizer service takes no output of a branch's parent for output."""
        if self._is_engine or record.kind is not RecordKind.BRANCH:
            return ""
        if not SamplingParams.from_proto(record.sampling_params).looks_back:
            return ""
        return (
            "its penalties or bad words count its parent's output; replay it with --local, or at "
            "an engine service"
        )

    def _run_one(self, line: int, record: Record) -> Rerun:
        try:
            return Rerun(line, record, self._repeat(record))
        except InvalidRequestError as error:
            return Rerun(line, record, problem=str(error))

    def _repeat(self, record: Record) -> Sequence[CompletionOutput]:
        if self._is_engine:
            return self._client.repeat(record)
        (answer,) = self._client.generate_many(
            [[*record.prompt_token_ids]],
            repeated_params(record.sampling_params, record.outputs),
            max_concurrency=1,
        )
        return answer.outputs

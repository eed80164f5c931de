"""LLM: a model that answers batches of prompts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from folovllm.errors import InvalidRequestError
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import ContinuationScore, ScoreOutput
from folovllm_client.api.requests import Prompt, split_prompt
from folovllm_client.launch.service_commands import require_services

if TYPE_CHECKING:
    from engine_service.config import CacheConfig, SchedulerConfig
    from engine_service.core.request import Branch, Request
    from engine_service.core.token_matcher import TokenMatcher
    from tokenizer_service.text.output_processor import OutputProcessor
    from tokenizer_service.text.tokenizer import Tokenizer


class LLM:
    """A model that answers batches of prompts."""

    def __init__(
        self,
        model: str | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_model_len: int | None = None,
        deterministic: bool = False,
        quantization: str = "none",
        cache: "CacheConfig | None" = None,
        scheduler: "SchedulerConfig | None" = None,
    ) -> None:
        """Loads a model: a folder, a hub id, or None for the embedded one. Raises ConfigError.

        The parameters mean what they mean in ModelConfig, CacheConfig and SchedulerConfig.
        """
        require_services()
        from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
        from engine_service.engine.factory import build_engine
        from tokenizer_service.text.output_processor import OutputProcessor
        from tokenizer_service.text.tokenizer import Tokenizer

        self.tokenizer = Tokenizer.from_folder(resolve_model(model, CONFIG_PATTERNS))
        self._new_processor = partial(OutputProcessor, self.tokenizer)
        config = EngineConfig(
            ModelConfig(model, dtype, device, max_model_len, deterministic, quantization),
            cache or CacheConfig(),
            scheduler or SchedulerConfig(),
        )
        self._engine = build_engine(config, show_progress=True)

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded, and how."""
        return self._engine.info

    def generate(
        self,
        prompts: str | Mapping[str, Sequence[int]] | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        show_progress: bool = True,
    ) -> list[RequestOutput]:
        """Answers all prompts as one continuous batch; the results are in their order.

        A prompt is a text or {"prompt_token_ids": ids}. sampling_params is one for all prompts or
        one per prompt; None takes the model's own defaults. Raises InvalidRequestError, before any
        work, if a prompt or a parameter can never be served.
        """
        from tqdm import tqdm

        batch: list[Prompt] = [prompts] if isinstance(prompts, str | Mapping) else list(prompts)
        batch_params = self._batch_params(sampling_params, len(batch))
        results = [RequestOutput() for _ in batch]
        requests = [
            self._request(prompt, params, result)
            for prompt, params, result in zip(batch, batch_params, results, strict=True)
        ]
        running = {}
        try:
            for (request, matcher), result in zip(requests, results, strict=True):
                processor = self._new_processor(request.sampling_params)
                running[request.request_id] = result, [processor] * request.sampling_params.n
                self._engine.add_request(request, matcher)
            # disable=None shows the bar on a terminal only.
            disable = None if show_progress else True
            with tqdm(total=len(results), unit="prompt", disable=disable) as progress:
                while self._engine.has_unfinished_requests():
                    progress.update(self._step(running))
        finally:  # an interrupt leaves nothing behind
            for name in running:
                self._engine.abort_request(name)
        return results

    def generate_branches(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        branches: Sequence[SamplingParams],
        after: int,
    ) -> tuple[RequestOutput, RequestOutput]:
        """Generates `after` tokens of a prompt and continues them in several branches at once.

        Returns the prompt's own output, complete, and that of the branches, one continuation each.
        A branch shares the KV before it; its text begins after the first `after` tokens. The
        second output has no continuations if the first ended with fewer tokens.
        Raises InvalidRequestError, before any work, if a parameter can never be served.
        """
        trunk, forked = RequestOutput(), RequestOutput(request_id=new_request_id())
        request, matcher = self._request(prompt, sampling_params.clone(n=1), trunk)
        forks, matchers = self._branches(len(request.prompt_token_ids), branches, after)
        running = {request.request_id: (trunk, [self._new_processor(request.sampling_params)])}
        self._engine.add_request(request, matcher)
        try:
            while not trunk.outputs or (
                not trunk.finished and len(trunk.outputs[0].token_ids) < after
            ):
                self._step(running)
            if not trunk.finished:
                preceding = tuple(trunk.outputs[0].token_ids)
                running[forked.request_id] = (
                    forked,
                    [self._new_processor(branch.sampling_params, preceding) for branch in forks],
                )
                self._engine.fork_request(
                    request.request_id, 0, forked.request_id, forks, matchers=matchers
                )
            while self._engine.has_unfinished_requests():
                self._step(running)
        finally:  # an interrupt leaves nothing behind
            for name in running:
                self._engine.abort_request(name)
        forked.prompt_token_ids = [*trunk.prompt_token_ids, *trunk.outputs[0].token_ids[:after]]
        return trunk, forked

    def score(self, prompt: Prompt, continuations: Sequence[Prompt]) -> ScoreOutput:
        """How probable each of the continuations is after the prompt; nothing is generated.

        A text continuation of a text prompt is scored as evaluation harnesses do: both are encoded
        as one text, and white space at the prompt's end belongs to the continuation. Raises
        InvalidRequestError, before any work, if they can never be served.
        """
        from engine_service.engine.score_requests import score_requests
        from tokenizer_service.text.score_encoding import encode_score

        encoded = encode_score(
            self.tokenizer,
            _text_or_ids(prompt),
            [_text_or_ids(continuation) for continuation in continuations],
            self._engine.info.max_model_len,
        )
        name, scores = new_request_id(), {}
        requests = score_requests(
            encoded.prompt_token_ids, encoded.continuations, self._engine.info
        )
        self._engine.add_scores(name, requests)
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    scores[output.index] = ContinuationScore.from_logprobs(output.logprobs)
        finally:
            self._engine.abort_request(name)
        return encoded.scores(ScoreOutput(name, tuple(scores[i] for i in range(len(requests)))))

    def _branches(
        self, num_prompt_tokens: int, branches: Sequence[SamplingParams], after: int
    ) -> "tuple[list[Branch], list[TokenMatcher | None]]":
        """Validated branches of a request that will have `after` tokens of output."""
        from engine_service.core.request import Branch
        from engine_service.engine.admission import check_branch, check_lengths
        from engine_service.seeding import new_seed
        from tokenizer_service.text.bad_words import resolve_bad_words

        if after < 1:
            raise InvalidRequestError("after", f"after must be at least 1, got {after}")
        checked: list[Branch] = []
        matchers: list[TokenMatcher | None] = []
        for index, given in enumerate(branches):
            try:
                params = resolve_bad_words(given, self.tokenizer)
                check_branch(params, self._engine.info)
                check_lengths(num_prompt_tokens + after, params, self._engine.info)
                matchers.append(self._engine.make_matcher(params))
            except InvalidRequestError as error:
                raise error.within(f"branches[{index}]") from None
            checked.append(Branch(params, new_seed()))
        return checked, matchers

    def _batch_params(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        if params is None or isinstance(params, SamplingParams):
            return [params or self._engine.default_sampling_params] * count
        if len(params) != count:
            raise InvalidRequestError(
                "sampling_params", f"got {len(params)} sampling_params for {count} prompts"
            )
        return list(params)

    def _request(
        self, prompt: Prompt, params: SamplingParams, result: RequestOutput
    ) -> "tuple[Request, TokenMatcher | None]":
        """A validated request and its grammar; fills in what is known of its result."""
        from engine_service.core.request import Request
        from engine_service.engine.admission import check_request
        from engine_service.seeding import new_seed
        from tokenizer_service.text.bad_words import resolve_bad_words

        result.prompt, token_ids = split_prompt(prompt)
        if token_ids is None:
            token_ids = self.tokenizer.encode(result.prompt or "")
        params = resolve_bad_words(params, self.tokenizer)
        check_request(token_ids, params, self._engine.info)
        result.request_id, result.prompt_token_ids = new_request_id(), token_ids
        matcher = self._engine.make_matcher(params)
        return Request(result.request_id, token_ids, params, seed=new_seed()), matcher

    def _step(
        self, running: "Mapping[str, tuple[RequestOutput, Sequence[OutputProcessor]]]"
    ) -> int:
        """Runs one step and adds its output to the results; how many of them it finished.

        `running` has a result by request id, and a processor for each of its continuations.
        """
        num_finished = 0
        for delta in self._engine.step():
            result, processors = running[delta.request_id]
            self._add(delta, processors[delta.index], result)
            num_finished += delta.finished() and result.finished
        return num_finished

    def _add(
        self, delta: CompletionOutput, processor: "OutputProcessor", result: RequestOutput
    ) -> None:
        """Adds a delta's text to its result; ends a continuation that reached a stop string."""
        output, stops = processor.process(delta)
        if output is not None:
            result.add(output)
        if stops:
            for final in self._engine.abort_request(delta.request_id, [delta.index]):
                self._add(final, processor, result)


def _text_or_ids(prompt: Prompt) -> str | list[int]:
    text, ids = split_prompt(prompt)
    return (ids or []) if text is None else text

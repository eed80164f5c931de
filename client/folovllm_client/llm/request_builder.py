"""RequestBuilder: prompts and parameters, checked, as what an engine runs."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from engine_service.core.request import Branch, Request
from engine_service.engine.admission import check_branch, check_lengths, check_request
from engine_service.engine.continued.checks import check_continued
from engine_service.engine.score_requests import ScoreRequest, score_request
from folovllm.errors import InvalidRequestError, errors_within
from folovllm.model_info import ModelInfo
from folovllm.outputs import RequestOutput
from folovllm.parameters.seeds import new_seed
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.prompt_parts import PromptParts
from folovllm_client.llm.request_state import GenerationState, ResumedState
from folovllm_client.llm.resuming import continued_outputs, errors_about, take_received
from tokenizer_service.text.bad_words import resolve_bad_words
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.score_encoding import EncodedScore, encode_score
from tokenizer_service.text.tokenizer import Tokenizer


class RequestBuilder:
    """For one model. Everything that it refuses raises InvalidRequestError, before any work."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        info: ModelInfo,
        default_sampling_params: SamplingParams,
        seed: int | None,
    ) -> None:
        """With a `seed`, requests without one of their own have seeds that it alone decides."""
        self._tokenizer = tokenizer
        self._info = info
        self._defaults = default_sampling_params
        self._new_seed: Callable[[], int] = new_seed
        if seed is not None:
            self._new_seed = partial(random.Random(seed).getrandbits, 63)

    def encode(self, prompt: PromptParts) -> list[int]:
        """The token ids of a prompt."""
        if prompt.token_ids is None:
            return self._tokenizer.encode(prompt.text or "")
        return prompt.token_ids

    def request(
        self,
        request_id: str,
        prompt: PromptParts,
        params: SamplingParams | None = None,
        priority: int = 0,
    ) -> tuple[Request, GenerationState]:
        """A request, and the state that its outputs go into."""
        params = resolve_bad_words(params or self._defaults, self._tokenizer)
        token_ids = params.truncate(self.encode(prompt))
        check_request(token_ids, params, self._info)
        request = Request(
            request_id,
            token_ids,
            params,
            seed=self._new_seed(),
            priority=priority,
            cache_salt=prompt.cache_salt,
        )
        result = RequestOutput(request_id, prompt.text, token_ids)
        processors = [OutputProcessor(self._tokenizer, params)] * params.n
        return request, GenerationState(result, self._tokenizer, processors, params.output_kind)

    def resumed(
        self, request_id: str, output: RequestOutput, priority: int = 0
    ) -> tuple[Request, GenerationState]:
        """The request that goes on with an output which has not ended, and its state there."""
        continued = continued_outputs(output, self._info)
        assert output.info is not None
        params, preceding = output.info.sampling_params, output.info.parent_output_token_ids
        with errors_about(output):
            check_request(output.prompt_token_ids, params, self._info)
        request = Request(
            request_id,
            output.prompt_token_ids,
            params,
            priority=priority,
            num_parent_output_tokens=len(preceding),
            continued=continued,
        )
        with errors_about(output):
            check_continued(request, self._info)
        result = replace(output, request_id=request_id)
        processors = [OutputProcessor(self._tokenizer, params, preceding)] * params.n
        state = ResumedState(result, self._tokenizer, processors, params.output_kind)
        take_received(state, output)
        return request, state

    def branches(self, num_tokens: int, params: Sequence[SamplingParams]) -> list[Branch]:
        """Branches of a sequence that will have at least so many tokens."""
        if not params:
            raise InvalidRequestError("branches", "give the parameters of at least one branch")
        branches = []
        for index, given in enumerate(params):
            with errors_within(f"branches[{index}]"):
                resolved = resolve_bad_words(given, self._tokenizer)
                check_branch(resolved, self._info)
                check_lengths(num_tokens, resolved, self._info)
            branches.append(Branch(resolved, self._new_seed()))
        return branches

    def branch_state(
        self, fork_id: str, parent: RequestOutput, branches: Sequence[Branch]
    ) -> GenerationState:
        """The state of branches of a request's first continuation, as far as that is now."""
        preceding = tuple(parent.outputs[0].token_ids)
        result = RequestOutput(fork_id, prompt_token_ids=[*parent.prompt_token_ids, *preceding])
        processors = [
            OutputProcessor(self._tokenizer, branch.sampling_params, preceding)
            for branch in branches
        ]
        kind = branches[0].sampling_params.output_kind
        return GenerationState(result, self._tokenizer, processors, kind)

    def scores(
        self, prompt: PromptParts, continuations: Sequence[PromptParts]
    ) -> tuple[EncodedScore, ScoreRequest]:
        """A request that scores continuations, and how to read their scores."""
        encoded = encode_score(
            self._tokenizer,
            prompt.text_or_ids,
            [continuation.text_or_ids for continuation in continuations],
            self._info.max_model_len,
        )
        request = score_request(
            encoded.prompt_token_ids,
            encoded.continuations,
            self._info,
            cache_salt=prompt.cache_salt,
        )
        return encoded, request

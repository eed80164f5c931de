"""LLMEngine: text in, RequestOutputs out, step by step; vLLM's class of this name."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from folovllm.errors import InvalidRequestError, errors_within
from folovllm.model_info import ModelInfo
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.prompt_parts import Prompt, PromptParts
from folovllm_client.launch.service_commands import require_services
from folovllm_client.llm.engine_args import EngineArgs
from folovllm_client.llm.resuming import errors_about

if TYPE_CHECKING:
    from engine_service.core.request import Branch
    from engine_service.core.token_matcher import TokenMatcher
    from engine_service.engine.score_requests import ScoreRequest
    from folovllm.outputs import CompletionOutput
    from folovllm_client.llm.chat_tokenizer import ChatTokenizer
    from folovllm_client.llm.request_state import RequestState, ScoreState


class LLMEngine:
    """Runs many requests at once, as long as its caller steps. Belongs to one thread."""

    def __init__(self, engine_args: EngineArgs) -> None:
        """Loads the model. Raises ConfigError."""
        require_services()
        from folovllm_client.llm.chat_tokenizer import ChatTokenizer
        from folovllm_client.llm.loading import load_engine, load_text_model
        from folovllm_client.llm.request_builder import RequestBuilder

        text_model = load_text_model(engine_args)
        self._engine = load_engine(engine_args, text_model)
        self.tokenizer = ChatTokenizer(text_model)
        """Of the model; what `get_tokenizer` returns."""
        self.requests = RequestBuilder(
            text_model.tokenizer,
            self._engine.info,
            self._engine.default_sampling_params,
            engine_args.seed,
        )
        """Checks prompts and parameters."""
        self._states: dict[str, RequestState] = {}

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "LLMEngine":
        """As vLLM's users make one."""
        return cls(engine_args)

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded, and how."""
        return self._engine.info

    @property
    def default_sampling_params(self) -> SamplingParams:
        """Those of a request without any: by the model's generation_config.json."""
        return self._engine.default_sampling_params

    def get_tokenizer(self) -> "ChatTokenizer":
        """The model's tokenizer."""
        return self.tokenizer

    def add_request(
        self,
        request_id: str,
        prompt: Prompt | PromptParts,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
    ) -> str:
        """Adds a request to the next step; returns its id. Of priorities, the lowest runs first.

        Raises InvalidRequestError if it can never be served, or if its id is in use.
        """
        self._check_unused(request_id)
        parts = PromptParts.read(prompt)
        request, state = self.requests.request(request_id, parts, params, priority)
        self._engine.add_request(request)
        self._states[request_id] = state
        return request_id

    def resume_request(self, request_id: str, output: RequestOutput, *, priority: int = 0) -> str:
        """Goes on with an output from the next step on; otherwise as `add_request`.

        LLM.resume says which output.
        """
        self._check_unused(request_id)
        request, state = self.requests.resumed(request_id, output, priority)
        with errors_about(output):
            self._engine.add_request(request)
        self._states[request_id] = state
        return request_id

    def fork_request(
        self,
        parent: RequestOutput,
        fork_id: str,
        branches: "Sequence[Branch]",
        matchers: "Sequence[TokenMatcher | None]",
    ) -> None:
        """Branches the first continuation of a running request, whose present output is `parent`.

        The branches' texts begin after it. `branches` come from `requests`, `matchers` from
        `make_matchers`.
        """
        self._check_unused(fork_id)
        state = self.requests.branch_state(fork_id, parent, branches)
        self._engine.fork_request(parent.request_id, 0, fork_id, branches, matchers=matchers)
        self._states[fork_id] = state

    def make_matchers(self, branches: "Sequence[Branch]") -> "list[TokenMatcher | None]":
        """The grammars of branches, compiled. Raises InvalidRequestError that names the branch."""
        matchers = []
        for index, branch in enumerate(branches):
            with errors_within(f"branches[{index}]"):
                matchers.append(self._engine.make_matcher(branch.sampling_params))
        return matchers

    def add_scores(self, name: str, request: "ScoreRequest") -> "ScoreState":
        """Adds a request that only scores; it is complete when the state is finished."""
        from folovllm_client.llm.request_state import ScoreState

        self._check_unused(name)
        state = ScoreState(len(request.continuations))
        self._engine.add_scores(name, request)
        self._states[name] = state
        return state

    def abort_request(self, request_ids: str | Iterable[str]) -> None:
        """Ends requests, whose KV is free at once; there is no more output of them.

        Ids of requests that do not run are ignored.
        """
        for name in [request_ids] if isinstance(request_ids, str) else list(request_ids):
            if self._states.pop(name, None) is not None:
                self._engine.abort_request(name)

    def has_unfinished_requests(self) -> bool:
        """Whether there is a request to step for."""
        return bool(self._states)

    def get_num_unfinished_requests(self) -> int:
        """Requests that were added and have not ended."""
        return len(self._states)

    def step(self) -> list[RequestOutput]:
        """Computes one step; returns the outputs of the requests that it changed.

        SamplingParams.output_kind says what an output holds: everything so far, only what is new,
        or nothing before the end.
        """
        if not self._engine.has_unfinished_requests():
            return []
        changed: dict[str, RequestState] = {}
        for delta in self._engine.step():
            self._take(delta, changed)
        outputs = []
        for name, state in changed.items():
            output = state.report()
            if output is not None:
                outputs.append(output)
            if state.finished:
                del self._states[name]
        return outputs

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False, with nothing changed, while a request holds KV."""
        return self._engine.reset_prefix_cache()

    def _take(self, delta: "CompletionOutput", changed: "dict[str, RequestState]") -> None:
        """Gives a delta to its request; ends a continuation that reached a stop string."""
        state = self._states.get(delta.request_id)
        if state is None:
            return
        changed[delta.request_id] = state
        if state.take(delta):
            for final in self._engine.abort_request(delta.request_id, [delta.index]):
                self._take(final, changed)

    def _check_unused(self, request_id: str) -> None:
        if request_id in self._states:
            raise InvalidRequestError("request_id", f"{request_id} is running already")

"""LLM: a model in this process that answers batches; vLLM's class of this name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from folovllm.chat import ChatMessage
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.outputs import RequestOutput
from folovllm.prompts import TokensPrompt
from folovllm.request_id import new_request_id
from folovllm.sampling_params import SamplingParams
from folovllm.score import ScoreOutput
from folovllm.vllm_names import RequestOutputKind
from folovllm_client.api.prompt_parts import Prompt
from folovllm_client.llm.engine_args import EngineArgs, EngineOptions
from folovllm_client.llm.llm_engine import LLMEngine
from folovllm_client.llm.refused_names import refuse
from folovllm_client.llm.resuming import final_only

if TYPE_CHECKING:
    from folovllm_client.api.chat_requests import ToolLike
    from folovllm_client.llm.chat_tokenizer import ChatTokenizer

Conversation = Sequence[ChatMessage | Mapping[str, Any]]
"""Messages, as OpenAI's API takes them."""
ProgressBar = bool | Callable[..., Any]
"""True shows one on a terminal; a callable makes it, as tqdm's class does."""


class LLM:
    """A model that answers batches of prompts and conversations."""

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        chat_template: str | Path | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        """Loads a model: a folder, a hub id, or None for the embedded one. Raises ConfigError.

        EngineArgs says what the options mean. `chat_template`, a text or a file, takes the place of
        the model's own.
        """
        self.llm_engine = LLMEngine(EngineArgs(model, **options))
        self._chat_template = _read_chat_template(chat_template)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "LLM":
        """Loads what the arguments name."""
        return cls(**vars(engine_args))

    if not TYPE_CHECKING:  # a checker should find misspelled names

        def __getattr__(self, name: str) -> NoReturn:
            refuse("LLM", name)

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded, and how."""
        return self.llm_engine.model_info

    def get_tokenizer(self) -> "ChatTokenizer":
        """The model's tokenizer, with its chat template."""
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """Those of a request without any: by the model's generation_config.json."""
        return self.llm_engine.default_sampling_params

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False, with nothing changed, while a request holds KV."""
        return self.llm_engine.reset_prefix_cache()

    def generate(
        self,
        prompts: Prompt | Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: ProgressBar = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Answers a prompt, or all of a list as one continuous batch; results are in their order.

        A prompt is a text, token ids, {"prompt": text} or {"prompt_token_ids": ids}.
        sampling_params is one for all prompts or one per prompt; None takes the model's own
        defaults. Of priorities the lowest runs first. Raises InvalidRequestError, before any work,
        if a prompt or a parameter can never be served.
        """
        return self._run(_list_prompts(prompts), sampling_params, priority, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: ProgressBar = True,
        *,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: "Iterable[ToolLike] | None" = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation, or several as a batch; the results are in their order.

        An output's text is raw: it has the markup of reasoning and tool calls, as far as that is
        not special tokens. Otherwise as `generate`, and raises what ChatTokenizer's
        apply_chat_template raises.
        """
        tokenizer, tools = self.get_tokenizer(), list(tools or ())
        prompts = []
        for conversation in _list_conversations(messages):
            text = tokenizer.apply_chat_template(
                conversation,
                tools,
                tokenize=False,
                chat_template=chat_template or self._chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            token_ids = tokenizer.encode(text, add_special_tokens=False)
            prompts.append(TokensPrompt(prompt=text, prompt_token_ids=token_ids))
        return self._run(prompts, sampling_params, priority, use_tqdm)

    def resume(
        self,
        outputs: RequestOutput | Sequence[RequestOutput],
        *,
        use_tqdm: ProgressBar = True,
        priority: int | Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Completes outputs that were cut off, as they would have been; results are in their order.

        An output is all that has come of a request so far: the latest CUMULATIVE one of an AsyncLLM
        or LLMEngine, or RequestOutput.join of what a server has sent, with its prompt_token_ids. A
        result holds that, followed by what was missing; continuations that have ended stay as they
        are. Where this model has the numerics_fingerprint of the one that began, it is what that
        would have generated. Raises InvalidRequestError, before any work, if nothing has come of a
        request yet, or if it cannot be this model's.
        """
        given = [outputs] if isinstance(outputs, RequestOutput) else list(outputs)
        missing = [index for index, output in enumerate(given) if not output.finished]
        priorities = _one_per_prompt("priority", priority, len(given))

        def add(name: str, index: int) -> None:
            output = given[missing[index]]
            order = priorities[missing[index]] or 0
            self.llm_engine.resume_request(name, final_only(output), priority=order)

        for index, output in zip(missing, self._finish(len(missing), add, use_tqdm), strict=True):
            given[index] = output
        return given

    def generate_branches(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        branches: Sequence[SamplingParams],
        after: int,
    ) -> tuple[RequestOutput, RequestOutput]:
        """Generates `after` tokens of a prompt and continues them in several branches at once.

        Returns the prompt's own output, complete, and that of the branches, one continuation each.
        A branch shares the KV before it; its text begins where the branching was. The second output
        has no continuations if the first ended with fewer tokens. Raises InvalidRequestError,
        before any work, if a parameter can never be served.
        """
        from folovllm_client.llm.branching import generate_branches

        return generate_branches(self.llm_engine, prompt, sampling_params, branches, after)

    def score(self, prompt: Prompt, continuations: Sequence[Prompt]) -> ScoreOutput:
        """How probable each of the continuations is after the prompt; nothing is generated.

        A text continuation of a text prompt is scored as evaluation harnesses do: both are encoded
        as one text, and white space at the prompt's end belongs to the continuation. Raises
        InvalidRequestError, before any work, if they can never be served.
        """
        from folovllm_client.llm.scoring import score

        return score(self.llm_engine, prompt, continuations)

    def _run(
        self,
        prompts: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int] | None,
        use_tqdm: ProgressBar,
    ) -> list[RequestOutput]:
        """Runs all prompts to their end; an error or an interrupt leaves none of them behind."""
        params = _one_per_prompt("sampling_params", sampling_params, len(prompts))
        priorities = _one_per_prompt("priority", priority, len(prompts))
        engine = self.llm_engine

        def add(name: str, index: int) -> None:
            whole = (params[index] or engine.default_sampling_params).clone(
                output_kind=RequestOutputKind.FINAL_ONLY
            )
            engine.add_request(name, prompts[index], whole, priority=priorities[index] or 0)

        return self._finish(len(prompts), add, use_tqdm)

    def _finish(
        self, count: int, add: Callable[[str, int], object], use_tqdm: ProgressBar
    ) -> list[RequestOutput]:
        """Runs requests to their end, each of which `add` adds by a name and its index."""
        engine, names = self.llm_engine, [new_request_id() for _ in range(count)]
        outputs: dict[str, RequestOutput] = {}
        try:
            for index, name in enumerate(names):
                add(name, index)
            with _progress_bar(use_tqdm, len(names)) as progress:
                while len(outputs) < len(names):
                    ended = {output.request_id: output for output in engine.step()}
                    outputs |= ended
                    if progress is not None:
                        progress.update(len(ended))
        finally:
            engine.abort_request(names)
        return [outputs[name] for name in names]


def _read_chat_template(given: str | Path | None) -> str | None:
    """A template from a file, or as it is if it cannot be a file's path."""
    if given is None or (isinstance(given, str) and any(mark in given for mark in "{}\n")):
        return given if given is None else str(given)
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"chat_template {given} cannot be read: {error}") from None


def _list_prompts(prompts: Any) -> list[Prompt]:
    """One prompt, or several, as a list."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise InvalidRequestError("prompts", f"prompts must be a prompt or a list, got {prompts!r}")
    is_token_ids = bool(prompts) and isinstance(prompts[0], int)
    return [prompts] if is_token_ids else list(prompts)


def _list_conversations(messages: Any) -> list[Conversation]:
    """One conversation, or several, as a list."""
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise InvalidRequestError("messages", f"messages must be a list, got {messages!r}")
    if messages and isinstance(messages[0], ChatMessage | Mapping):
        return [messages]
    return list(messages)


def _one_per_prompt(name: str, given: Any, count: int) -> list[Any]:
    """The values of an argument, one for each prompt."""
    if not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise InvalidRequestError(name, f"got {len(given)} {name} for {count} prompts")
    return list(given)


def _progress_bar(use_tqdm: ProgressBar, total: int) -> AbstractContextManager[Any]:
    if not use_tqdm:
        return nullcontext()
    if callable(use_tqdm):
        make: Callable[..., Any] = use_tqdm
    else:
        from tqdm import tqdm

        make = partial(tqdm, disable=None)  # shows it on a terminal only
    bar: AbstractContextManager[Any] = make(total=total, desc="Processed prompts", unit="prompt")
    return bar

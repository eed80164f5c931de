"""LLM's methods on the embedded model: what code written for vLLM calls, and what it gets."""

from functools import partial
from typing import Any

import pytest
from tqdm import tqdm

from folovllm import LLM, ChatMessage, InvalidRequestError, Role, SamplingParams
from folovllm.errors import UnsupportedError
from folovllm.model_files import DEMO_MODEL
from folovllm.v1 import tokenizer_service_pb2 as messages
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.model import TextModel

GREEDY = SamplingParams(temperature=0.0, max_tokens=6)
ASK = [{"role": "user", "content": "What is 47 + 38?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(dtype="float32", device="cpu", num_gpu_blocks_override=256)


def texts(outputs: list[Any]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_every_form_of_a_prompt_is_taken(llm: LLM) -> None:
    text = "Once upon a"
    ids = llm.get_tokenizer().encode(text)
    both = {"prompt": text, "prompt_token_ids": ids}
    forms: list[Any] = [text, ids, {"prompt": text}, {"prompt_token_ids": ids}, both, tuple(ids)]
    outputs = llm.generate(forms, GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == [text, None, text, None, text, None]
    assert all(output.prompt_token_ids == ids and output.finished for output in outputs)
    assert len(set(texts(outputs))) == 1
    for form in forms:
        assert texts(llm.generate(form, GREEDY, use_tqdm=False)) == texts(outputs)[:1]
    assert llm.generate([], GREEDY, use_tqdm=False) == []


@pytest.mark.parametrize(
    ("prompt", "field", "named"),
    [
        ({"prompt": "a", "multi_modal_data": {}}, "prompt", "multi_modal_data"),
        ({"prompt": 3}, "prompt", "texts"),
        ({}, "prompt", "a prompt is a text, a list of token ids, "),
        ([1, 2.5], "prompt_token_ids", "2.5"),
        (3, "prompts", "prompts must be a prompt or a list, got 3"),
    ],
)
def test_what_is_no_prompt_is_said(llm: LLM, prompt: Any, field: str, named: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        llm.generate(prompt, GREEDY, use_tqdm=False)
    assert refused.value.field == field and named in str(refused.value)


def test_a_salt_keeps_prompts_apart(llm: LLM) -> None:
    text = "A garden with a tall tree, a small house and a brave horse in it."
    cached = [
        llm.generate({"prompt": text, "cache_salt": salt}, GREEDY, use_tqdm=False)[0]
        for salt in ("a", "b", "a")
    ]
    assert [bool(output.num_cached_tokens) for output in cached] == [False, False, True]


def test_parameters_are_one_for_all_or_one_each(llm: LLM) -> None:
    each = [GREEDY.clone(max_tokens=1), GREEDY.clone(max_tokens=3)]
    outputs = llm.generate(["Once", "Once"], each, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 3]
    with pytest.raises(InvalidRequestError, match="got 2 sampling_params for 1 prompts"):
        llm.generate(["Once"], each, use_tqdm=False)
    with pytest.raises(InvalidRequestError, match="got 1 priority for 2 prompts"):
        llm.generate(["Once", "The"], GREEDY, priority=[1], use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()


def test_the_lowest_priority_runs_first() -> None:
    llm = LLM(device="cpu", max_num_seqs=1, num_gpu_blocks_override=128)
    outputs = llm.generate(["Once"] * 3, GREEDY, priority=[2, 0, 1], use_tqdm=False)
    waits = [output.outputs[0].metrics.queue for output in outputs if output.outputs[0].metrics]
    assert waits[1] < waits[2] < waits[0]


def test_progress_is_shown_as_the_caller_wants(
    llm: LLM, capsys: pytest.CaptureFixture[str]
) -> None:
    bars: list[Any] = []

    def bar(**options: Any) -> Any:
        bars.append(tqdm(**options, leave=False))
        return bars[-1]

    llm.generate(["Once", "The"], GREEDY, use_tqdm=bar)
    assert (bars[0].n, bars[0].total) == (2, 2)
    assert "Processed prompts" in capsys.readouterr().err
    llm.generate("Once", GREEDY, use_tqdm=False)
    llm.generate("Once", GREEDY)  # there is no terminal
    assert capsys.readouterr().err == ""
    llm.generate("Once", GREEDY, use_tqdm=partial(tqdm, bar_format="all of {total}"))
    assert "all of 1" in capsys.readouterr().err


def test_a_request_that_is_refused_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="token id 999999 is unknown"):
        llm.generate([[1], [999_999]], GREEDY, use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()


async def test_a_chat_is_rendered_as_the_service_renders_it(llm: LLM) -> None:
    model = TextModel.from_folder(DEMO_MODEL)
    rendered = await Renderer(model.chat_template, model.tokenizer, 10_000).render(
        messages.ApplyChatTemplateRequest(
            messages=[messages.ChatMessage(role=messages.ROLE_USER, content="What is 47 + 38?")],
            tools=[
                messages.Tool(
                    name="get_weather",
                    description="Get the weather in a city.",
                    parameters='{"type": "object", "properties": {"city": {"type": "string"}}}',
                )
            ],
            enable_thinking=False,
        )
    )
    (output,) = llm.chat(
        ASK,
        GREEDY,
        use_tqdm=False,
        tools=[WEATHER],
        chat_template_kwargs={"enable_thinking": False},
    )
    assert (output.prompt, output.prompt_token_ids) == (rendered.text, rendered.token_ids)
    ids = llm.get_tokenizer().apply_chat_template(
        ASK, [WEATHER], add_generation_prompt=True, enable_thinking=False
    )
    assert ids == rendered.token_ids


def test_several_conversations_are_one_batch(llm: LLM) -> None:
    other = [ChatMessage(Role.USER, "What is the capital of France?")]
    alone = llm.chat(ASK, GREEDY, False) + llm.chat(other, GREEDY, False)
    both: list[Any] = [ASK, other]
    together = llm.chat(both, GREEDY, use_tqdm=False)
    assert texts(together) == texts(alone)
    with pytest.raises(InvalidRequestError, match="messages must be a list"):
        llm.chat("What is 47 + 38?")  # type: ignore[arg-type]


def test_an_answer_is_raw_text_and_long_enough(llm: LLM) -> None:
    (output,) = llm.chat(ASK, GREEDY.clone(max_tokens=None), use_tqdm=False)
    text = output.outputs[0].text
    assert text.startswith("<think>\n") and text.endswith("47 + 38 = 85.")


def test_a_message_is_continued_or_a_turn_left_open(llm: LLM) -> None:
    begun: list[dict[str, Any]] = [*ASK, {"role": "assistant", "content": "47 + 38 ="}]
    (output,) = llm.chat(
        begun, GREEDY, use_tqdm=False, add_generation_prompt=False, continue_final_message=True
    )
    assert output.prompt is not None and output.prompt.endswith("47 + 38 =")
    (open_turn,) = llm.chat(ASK, GREEDY, use_tqdm=False, add_generation_prompt=False)
    (new_turn,) = llm.chat(ASK, GREEDY, use_tqdm=False)
    assert open_turn.prompt and new_turn.prompt
    assert new_turn.prompt.removeprefix(open_turn.prompt) == "<|im_start|>assistant\n"
    with pytest.raises(InvalidRequestError, match="goes with add_generation_prompt=False"):
        llm.chat(begun, GREEDY, use_tqdm=False, continue_final_message=True)


def test_a_template_of_the_call_wins_and_sees_variables(llm: LLM) -> None:
    (output,) = llm.chat(
        ASK,
        GREEDY,
        use_tqdm=False,
        chat_template="{{ mood }} {{ messages[0].content }}{{ eos_token }}",
        chat_template_kwargs={"mood": "calm"},
    )
    assert output.prompt == "calm What is 47 + 38?<|im_end|>"
    with pytest.raises(UnsupportedError, match="template is broken"):
        llm.chat(ASK, GREEDY, use_tqdm=False, chat_template="{% if")


def test_the_tokenizer_does_what_transformers_users_do_with_it(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode("Once upon a time<|im_end|>")
    assert (tokenizer.eos_token, ids[-1]) == ("<|im_end|>", tokenizer.eos_token_id)
    assert tokenizer.decode(ids) == "Once upon a time<|im_end|>"
    assert tokenizer.batch_decode([ids], skip_special_tokens=True) == ["Once upon a time"]
    assert tokenizer.decode(ids[0]) == "Once"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id
    assert tokenizer.eos_token_id in tokenizer.all_special_ids
    assert len(tokenizer) == tokenizer.vocab_size > max(ids)


def test_the_prefix_cache_is_emptied(llm: LLM) -> None:
    prompt = "The little horse walked over the hill to see the sea, and sang a song."

    def cached() -> int | None:
        return llm.generate(prompt, GREEDY, use_tqdm=False)[0].num_cached_tokens

    cached()
    assert cached()
    assert llm.reset_prefix_cache() is True
    assert cached() == 0
    llm.llm_engine.add_request("running", prompt, GREEDY)
    llm.llm_engine.step()
    assert llm.reset_prefix_cache() is False
    llm.llm_engine.abort_request("running")
    assert cached()


def test_defaults_are_the_models_own(llm: LLM) -> None:
    defaults = llm.get_default_sampling_params()
    (output,) = llm.generate("Once", use_tqdm=False)
    assert output.info is not None
    resolved = output.info.sampling_params
    assert resolved.clone(seed=None, output_kind=defaults.output_kind) == defaults

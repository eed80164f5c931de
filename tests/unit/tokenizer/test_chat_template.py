"""What a chat template sees, where it is read from, and what becomes of its errors."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from folovllm.chat import ChatMessage, Conversation, Role, Tool, ToolCall
from folovllm.errors import ConfigError, InvalidRequestError, UnsupportedError
from folovllm.model_files import DEMO_MODEL
from tokenizer_service.chat.template import ChatTemplate

HELLO = Conversation((ChatMessage(Role.USER, "Hello"),))


def render(text: str, conversation: Conversation = HELLO) -> str:
    return ChatTemplate(text).render(conversation)


def seen(conversation: Conversation, expression: str) -> Any:
    """A value of the template's, as JSON."""
    return json.loads(render(f"{{{{ {expression} | tojson }}}}", conversation))


def test_messages_have_the_keys_that_transformers_users_write() -> None:
    call = ToolCall("call-1", "search", '{"q": {"deep": [1, "ü"]}}')
    conversation = Conversation(
        (
            ChatMessage(Role.USER, ""),
            ChatMessage(Role.ASSISTANT, "", "thought", (call, ToolCall("", "now"))),
            ChatMessage(Role.TOOL, "found", tool_call_id="call-1"),
        )
    )
    assert seen(conversation, "messages") == [
        {"role": "user", "content": ""},
        {
            "role": "assistant",
            "content": "",
            # The second name is transformers' doing, for templates that read that one.
            "thinking": "thought",
            "reasoning_content": "thought",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call-1",
                    "function": {"name": "search", "arguments": {"q": {"deep": [1, "ü"]}}},
                },
                {"type": "function", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "found", "tool_call_id": "call-1"},
    ]


def test_tools_are_functions_and_none_are_none() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    tools = (Tool("search", "Finds", json.dumps(schema)), Tool("now"))
    assert seen(Conversation(HELLO.messages, tools), "tools") == [
        {
            "type": "function",
            "function": {"name": "search", "description": "Finds", "parameters": schema},
        },
        {"type": "function", "function": {"name": "now", "parameters": Tool("now").schema()}},
    ]
    assert seen(HELLO, "tools") is None


@pytest.mark.parametrize(("choice", "text"), [(None, "absent"), (True, "True"), (False, "False")])
def test_thinking_is_passed_only_where_the_conversation_says(
    choice: bool | None, text: str
) -> None:
    conversation = Conversation(HELLO.messages, enable_thinking=choice)
    assert render("{{ enable_thinking | default('absent') }}", conversation) == text


def test_the_last_message_can_be_left_open() -> None:
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    text += "{{ '<assistant>' if add_generation_prompt }}"
    begun = (*HELLO.messages, ChatMessage(Role.ASSISTANT, "Well, "))
    assert render(text) == "<user>Hello</><assistant>"
    open_ended = Conversation(begun, add_generation_prompt=False, continue_final_message=True)
    assert render(text, open_ended) == "<user>Hello</><assistant>Well, "
    with pytest.raises(InvalidRequestError, match="continue_final_message"):
        render("{{ messages[0].content }}", open_ended)


def test_what_a_conversation_says_is_never_a_template() -> None:
    evil = "{{ 7*7 }}{% for i in range(3) %}x{% endfor %}{# gone #}"
    conversation = Conversation(
        (
            ChatMessage(Role.SYSTEM, evil),
            ChatMessage(Role.USER, evil),
            ChatMessage(Role.ASSISTANT, evil, evil, (ToolCall(evil, evil, '{"{{1}}": "{{2}}"}'),)),
        ),
        (Tool(evil, evil),),
    )
    text = ChatTemplate.from_folder(DEMO_MODEL).render(conversation)
    assert text.count(evil) == 7 and '{"{{1}}": "{{2}}"}' in text and "49" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ raise_exception('No tools,\n please.') }}", "No tools, please."),
        ("{{ missing.name }}", "'missing' is undefined"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ range(10000000) }}", "Range too big"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ {}['a' * 9999].b }}", "has no attribute"),
    ],
)
def test_what_a_template_raises_is_said_in_one_short_line(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as refused:
        render(text)
    assert refused.value.field == "messages"
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize("depth", [900, 100_000])
def test_arguments_that_are_nested_too_deep_are_refused(depth: int) -> None:
    """How deep that is depends on the version of Python."""
    arguments = '{"a": ' + "[" * depth + "]" * depth + "}"
    some_can = suppress(InvalidRequestError)
    with some_can if depth == 900 else pytest.raises(InvalidRequestError):
        call = ToolCall("", "f", arguments)
        render(
            "{{ messages | tojson }}", Conversation((ChatMessage(Role.ASSISTANT, "", "", (call,)),))
        )


def test_without_a_template_or_with_a_broken_one_there_is_no_chat() -> None:
    with pytest.raises(UnsupportedError, match="has no chat template"):
        ChatTemplate().render(HELLO)
    with pytest.raises(UnsupportedError, match="chat template is broken: Expected an expression"):
        render("{% if %}")


CONFIG = {
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
    "eos_token": "</s>",
    "pad_token": None,
    "add_bos_token": True,
    "image_token": "<image>",
    "additional_special_tokens": ["<other>"],
}
TOKENS = "{{ [bos_token, eos_token, pad_token, add_bos_token, image_token, audio_token] }}"


@pytest.mark.parametrize("extra", [{}, {"extra_special_tokens": {"audio_token": "<audio>"}}])
def test_special_tokens_are_those_that_transformers_passes(
    tmp_path: Path, extra: dict[str, Any]
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((DEMO_MODEL / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(CONFIG | extra | {"chat_template": TOKENS}), encoding="utf-8"
    )
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = reference.apply_chat_template([{"role": "user", "content": ""}], tokenize=False)
    assert ChatTemplate.from_folder(tmp_path).render(HELLO) == expected
    assert "<s>" in expected and "<image>" in expected and ("<audio>" in expected) is bool(extra)


def test_a_folder_may_have_none_but_not_a_broken_config(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        ChatTemplate.from_folder(tmp_path).check_available()
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError):
        ChatTemplate.from_folder(tmp_path)


def test_rendering_needs_no_torch() -> None:
    code = """
import sys
import tokenizer_service.__main__
from folovllm.chat import ChatMessage, Conversation
from folovllm.model_files import DEMO_MODEL
from tokenizer_service.chat.template import ChatTemplate

template = ChatTemplate.from_folder(DEMO_MODEL)
print("transformers" in sys.modules, "jinja2" in sys.modules)
print(template.render(Conversation((ChatMessage("user", "Hello"),))))
print("torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=99)
    first, *rendered, last = ended.stdout.splitlines()
    assert (first, rendered[0], last) == ("False False", "<|im_start|>user", "False"), ended.stderr

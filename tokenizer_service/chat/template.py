"""ChatTemplate: how a model's conversations become text, by transformers' own code.

The template is that of the model's folder, never a request's, and runs in transformers' sandbox.
The text is byte for byte that of `apply_chat_template` of transformers' tokenizer for the same
conversation. The template sees the special tokens that tokenizer_config.json names.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folovllm.chat import ChatMessage, Conversation, Tool, ToolCall
from folovllm.errors import InvalidRequestError, UnsupportedError
from folovllm.model_files import read_chat_template, read_json

_MAX_REASON = 200


class ChatTemplate:
    """One model's template; empty text means none. May be used from several threads at once."""

    def __init__(self, text: str = "", special_tokens: Mapping[str, str] | None = None) -> None:
        self.text = text
        """Jinja, as the model's folder has it."""
        self.special_tokens: Mapping[str, str] = dict(special_tokens or {})
        """Names and texts, as templates see them."""

    @classmethod
    def from_folder(cls, path: Path) -> "ChatTemplate":
        """Reads the template of a model's folder, which may have none. Raises ConfigError."""
        config = path / "tokenizer_config.json"
        special_tokens = _special_tokens(read_json(config)) if config.is_file() else {}
        return cls(read_chat_template(path), special_tokens)

    def check_available(self) -> None:
        """Raises UnsupportedError if the model has none."""
        if not self.text:
            raise UnsupportedError("the model that is served has no chat template")

    def with_text(self, text: str) -> "ChatTemplate":
        """Another template, which sees the same special tokens."""
        return ChatTemplate(text, self.special_tokens)

    def render(
        self, conversation: Conversation, extra_variables: Mapping[str, object] | None = None
    ) -> str:
        """The conversation as the model sees it. Takes as long as the template does.

        The template sees `extra_variables` too; they take precedence. Raises InvalidRequestError
        naming `messages` if the template refuses them, and UnsupportedError if there is no template
        or it is invalid.
        """
        self.check_available()
        from jinja2 import TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        variables: dict[str, Any] = dict(self.special_tokens)
        if conversation.enable_thinking is not None:
            variables["enable_thinking"] = conversation.enable_thinking
        variables |= extra_variables or {}
        try:
            rendered = render_jinja_template(
                conversations=[[_message(message) for message in conversation.messages]],
                tools=[_tool(tool) for tool in conversation.tools] or None,
                chat_template=self.text,
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.continue_final_message,
                **variables,
            )
        except TemplateSyntaxError as error:
            raise UnsupportedError(f"the model's chat template is broken: {_line(error)}") from None
        except Exception as error:  # a template may raise anything
            raise InvalidRequestError(
                "messages", f"the chat template does not take them: {_line(error)}"
            ) from None
        return rendered[0][0]  # that of the first and only conversation


def import_transformers() -> None:
    """Imports what rendering needs: about a second and 50 MB, the first time."""
    # Otherwise it warns that torch is missing, which is intended here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # It imports numpy, whose threads would spin at first without any work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import transformers.utils.chat_template_utils  # noqa: F401


def _message(message: ChatMessage) -> dict[str, Any]:
    """A message as transformers' users write it; content always, everything else unless empty."""
    others = {
        "reasoning_content": message.reasoning_content,
        "tool_calls": [_tool_call(call) for call in message.tool_calls],
        "tool_call_id": message.tool_call_id,
    }
    written = {"role": message.role.value, "content": message.content}
    return written | {name: value for name, value in others.items() if value}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.parsed_arguments()}
    return {"type": "function", **({"id": call.id} if call.id else {}), "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.schema()
    return {"type": "function", "function": function}


def _special_tokens(config: Mapping[str, object]) -> dict[str, str]:
    """Names and texts of the tokens that are a string or {"content": ...} in the config."""
    named = {name: token for name, token in config.items() if name.endswith("_token")}
    extra = config.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    texts = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in named.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _line(error: Exception) -> str:
    """An error's message as one short line."""
    return " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__

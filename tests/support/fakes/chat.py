"""What the fake tokenizer service answers in a chat.

The content of the last message, reversed, one character an event, after its length as reasoning
where thinking is asked for; with these exceptions:

    a question, where tools are listed, calls the first one, each required argument being the
        question's last word
    "!!…", "forever"   one content delta, "a", and no end
    "ponder"           one reasoning delta, "a", and no end
"""

import json

from folovllm.chat import ToolCall
from folovllm.chat_outputs import (
    ChatEvent,
    ChatFinish,
    ChatFinishReason,
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from folovllm.outputs import RequestMetrics, Usage
from folovllm.v1 import tokenizer_service_pb2 as messages

METRICS = RequestMetrics(prefill=0.25, decode=0.5, time_to_first_token=0.25)
"""Of every answer."""


def answer_events(request: messages.ChatRequest) -> list[ChatEvent]:
    said = request.messages[-1].content
    if said.startswith("!!") or said == "forever":
        return [ContentDelta("a")]
    if said == "ponder":
        return [ReasoningDelta("a")]
    if said.endswith("?") and request.tools:
        last_word = said.rstrip("?").split()[-1]
        required = json.loads(request.tools[0].parameters).get("required", [])
        return call_events(request.tools[0].name, dict.fromkeys(required, last_word))
    reasoning = [ReasoningDelta(f"{len(said)} letters")] if request.enable_thinking else []
    return [*reasoning, *map(ContentDelta, reversed(said)), finish("stop")]


def call_events(name: str, arguments: dict[str, object], call_id: str = "c1") -> list[ChatEvent]:
    """The events of an answer that is one tool call."""
    text = json.dumps(arguments)
    return [
        ToolCallStart(call_id, name),
        ToolCallArgumentsDelta(text[:3]),
        ToolCallArgumentsDelta(text[3:]),
        ToolCallEnd(ToolCall(call_id, name, text)),
        finish("tool_calls"),
    ]


def finish(reason: str) -> ChatFinish:
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    return ChatFinish(ChatFinishReason(reason), usage=usage, metrics=METRICS)

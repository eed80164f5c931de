"""Chat through both services on the embedded model."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest

from folovllm import ChatMessage, Client, SamplingParams, Tool
from folovllm.chat import Role
from folovllm.chat_outputs import ChatFinishReason, ChatOutput, ContentDelta
from support.processes.service_processes import ServiceProcess

GREEDY = SamplingParams(temperature=0.0, max_tokens=200)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "city": {"type": "string"},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
WEATHER = Tool(
    "get_weather",
    "Get the weather in a city.",
    '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}',
)
SUM = "What is 47 + 38?"


@pytest.fixture
def client(tokenizer: ServiceProcess) -> Iterator[Client]:
    with Client(tokenizer.address, timeout=60) as client:
        yield client


def test_thinking_comes_before_the_answer_and_may_be_left_out(client: Client) -> None:
    (thought,) = client.chat(SUM, sampling_params=GREEDY).answers
    assert thought.reasoning_content and "85" in thought.content
    assert thought.finish is not None and thought.finish.usage is not None
    assert 0 < thought.finish.usage.reasoning_tokens < thought.finish.usage.completion_tokens
    (plain,) = client.chat(SUM, sampling_params=GREEDY, enable_thinking=False).answers
    assert not plain.reasoning_content and "85" in plain.content


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_thinking_budget_is_kept(client: Client, budget: int) -> None:
    (answer,) = client.chat(SUM, sampling_params=GREEDY, thinking_budget=budget).answers
    assert answer.finish is not None and answer.finish.usage is not None
    assert answer.finish.usage.reasoning_tokens == budget
    assert answer.finish_reason is ChatFinishReason.STOP and answer.content


@pytest.mark.parametrize("enable_thinking", [True, False])
def test_a_format_binds_the_answer_and_not_the_thinking(
    client: Client, enable_thinking: bool
) -> None:
    for seed in range(5):
        result = client.chat(
            "Write as JSON: Anna is 12 and lives in Oslo.",
            response_format=PERSON,
            enable_thinking=enable_thinking,
            sampling_params=SamplingParams(temperature=1.0, seed=seed, max_tokens=300),
        )
        (answer,) = result.answers
        assert answer.finish_reason is ChatFinishReason.STOP
        jsonschema.validate(json.loads(answer.content), PERSON)


def test_a_tool_is_called_and_its_answer_told(client: Client) -> None:
    question = ChatMessage(Role.USER, "What is the weather in Oslo?")
    result = client.chat([question], tools=[WEATHER], sampling_params=GREEDY)
    (answer,) = result.answers
    assert answer.finish_reason is ChatFinishReason.TOOL_CALLS
    (call,) = answer.tool_calls
    assert (call.name, call.parsed_arguments()) == ("get_weather", {"city": "Oslo"})
    told = '{"city": "Oslo", "temperature": 21, "condition": "sunny"}'
    reply = ChatMessage(Role.TOOL, told, tool_call_id=call.id)
    after = client.chat([question, result.message, reply], tools=[WEATHER], sampling_params=GREEDY)
    assert "sunny" in after.message.content and not after.message.tool_calls


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_always_made_and_valid(client: Client, seed: int) -> None:
    result = client.chat(
        "Hello!",
        tools=[WEATHER],
        tool_choice="required",
        sampling_params=SamplingParams(temperature=1.0, seed=seed, max_tokens=300),
    )
    (answer,) = result.answers
    assert answer.finish_reason is ChatFinishReason.TOOL_CALLS
    for call in answer.tool_calls:
        jsonschema.validate(call.parsed_arguments(), WEATHER.schema())


def test_no_call_is_made_where_none_is_wanted(client: Client) -> None:
    result = client.chat(
        "What is the weather in Oslo?",
        tools=[WEATHER],
        tool_choice="none",
        sampling_params=GREEDY,
    )
    assert not result.message.tool_calls and "<tool_call>" not in result.message.content


def test_the_stream_is_the_answer(client: Client) -> None:
    whole = client.chat(SUM, sampling_params=GREEDY).answers[0]
    outputs: list[ChatOutput] = list(client.stream_chat(SUM, sampling_params=GREEDY))
    deltas = [output.event.text for output in outputs if isinstance(output.event, ContentDelta)]
    assert "".join(deltas) == whole.content
    assert [i for output in outputs for i in output.token_ids] == whole.token_ids


def test_many_chats_at_once_are_each_as_alone(client: Client) -> None:
    questions = [f"What is {a} + {b}?" for a in range(11, 15) for b in range(21, 25)]

    def ask(question: str) -> str:
        return client.chat(question, sampling_params=GREEDY).message.content

    alone = [ask(question) for question in questions]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, questions)) == alone

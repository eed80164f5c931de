"""Chats of Client and AsyncClient against a TokenizerService on a real socket."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from folovllm import AsyncClient, ChatMessage, Client, SamplingParams, Tool, Toolbox, ToolCall
from folovllm.chat import Role
from folovllm.chat_outputs import (
    ChatFinishReason,
    ContentDelta,
    ReasoningDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from folovllm.errors import DeadlineError, InvalidRequestError, UnavailableError
from folovllm.outputs import Usage
from folovllm.v1 import tokenizer_service_pb2 as wire
from support.fakes.chat import call_events, finish
from support.fakes.tokenizer_service import FakeTokenizerService, as_asked, running_fake


def get_weather(city: str) -> str:
    return f"sunny in {city}"


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


@pytest.fixture
def client(fake: FakeTokenizerService) -> Iterator[Client]:
    with Client(fake.address) as client:
        yield client


def test_events_join_to_an_answer(client: Client) -> None:
    result = client.chat("abc", enable_thinking=True, request_id="r1")
    assert result.finished
    assert (result.request_id, result.message) == (
        "r1",
        ChatMessage(Role.ASSISTANT, "cba", "3 letters"),
    )
    [answer] = result.answers
    assert answer.token_ids == [97] * 5
    assert answer.finish is not None
    assert answer.finish.usage == Usage(prompt_tokens=3, completion_tokens=4)
    assert answer.finish_reason is ChatFinishReason.STOP


def test_all_of_several_answers_come(client: Client) -> None:
    result = client.chat("abc", sampling_params=SamplingParams(n=2, max_tokens=None))
    assert [answer.content for answer in result.answers] == ["cba", "cba"]


def test_events_are_typed(client: Client) -> None:
    tool = Tool("get_weather", parameters='{"required": ["city"]}')
    events = [output.event for output in client.stream_chat("Weather in Oslo?", tools=[tool])]
    call = ToolCall("c1", "get_weather", '{"city": "Oslo"}')
    assert events[0] == ToolCallStart("c1", "get_weather")
    assert events[3:] == [ToolCallEnd(call), finish("tool_calls")]
    pieces = [event.text for event in events if isinstance(event, ToolCallArgumentsDelta)]
    assert "".join(pieces) == call.arguments
    events = [output.event for output in client.stream_chat("ab", enable_thinking=True)]
    assert events == [
        ReasoningDelta("2 letters"),
        ContentDelta("b"),
        ContentDelta("a"),
        finish("stop"),
    ]


def test_a_message_of_the_contract_is_sent_as_it_is(
    client: Client, fake: FakeTokenizerService
) -> None:
    request = wire.ChatRequest(messages=[wire.ChatMessage(role=wire.ROLE_USER, content="ab")])
    assert len(list(client.send_chat(request, timeout=30))) == 3
    assert [*map(as_asked, fake.chats)] == [request]
    list(client.send_chat(request, resume=False))
    assert fake.chats[1] == request
    assert fake.deadlines[0] is not None and fake.deadlines[0] < 60


def test_closing_a_chat_cancels_the_call(client: Client, fake: FakeTokenizerService) -> None:
    stream = client.stream_chat("forever")
    assert next(stream).event == ContentDelta("a")
    assert not fake.cancelled.is_set()
    stream.close()
    assert fake.cancelled.wait(10)


def test_errors_of_a_chat(client: Client, fake: FakeTokenizerService) -> None:
    with pytest.raises(UnavailableError, match="^no engine is ready$"):
        client.chat("!UNAVAILABLE")
    with pytest.raises(InvalidRequestError) as invalid:
        client.chat("!!INVALID_ARGUMENT")
    assert invalid.value.field == "sampling_params.top_p"
    with pytest.raises(DeadlineError):
        client.chat("forever", timeout=0.2)
    sent = len(fake.chats)
    with pytest.raises(InvalidRequestError):
        client.stream_chat([])
    assert len(fake.chats) == sent


def test_tools_are_called_until_the_model_is_done(
    client: Client, fake: FakeTokenizerService
) -> None:
    two_calls = call_events("get_weather", {"city": "Oslo"})[:-1]
    two_calls += call_events("get_weather", {"town": "Rome"}, "c2")
    fake.scripts = [two_calls, [ContentDelta("Sunny."), finish("stop")]]
    result, messages = client.chat_with_tools(
        [{"role": "user", "content": "Weather?"}],
        [get_weather],
        tool_choice="required",
        enable_thinking=False,
    )
    assert result.message.content == "Sunny."
    assert [message.role for message in messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert [call.id for call in messages[1].tool_calls] == ["c1", "c2"]
    assert messages[2] == ChatMessage(Role.TOOL, "sunny in Oslo", tool_call_id="c1")
    assert messages[3].content.startswith("error: city: Missing")
    assert messages[-1] == result.message
    first, second = fake.chats
    # Otherwise the model could never end.
    assert first.tool_choice.mode == wire.ToolChoice.MODE_REQUIRED
    assert not second.HasField("tool_choice")
    assert [message.to_proto() for message in messages[:-1]] == list(second.messages)
    assert json.loads(second.tools[0].parameters)["required"] == ["city"]
    assert first.HasField("enable_thinking") and second.HasField("enable_thinking")


def test_rounds_of_tools_are_bounded(client: Client, fake: FakeTokenizerService) -> None:
    fake.scripts = [call_events("get_weather", {"city": "Oslo"}) for _ in range(3)]
    result, messages = client.chat_with_tools("Weather", Toolbox([get_weather]), max_rounds=2)
    assert result.answers[0].finish_reason is ChatFinishReason.TOOL_CALLS
    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert len(fake.chats) == 2


def test_requests_that_cannot_call_tools(client: Client, fake: FakeTokenizerService) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.chat_with_tools("a", [get_weather], max_rounds=0)
    assert caught.value.field == "max_rounds"
    with pytest.raises(InvalidRequestError) as caught:
        client.chat_with_tools("a", [get_weather], sampling_params=SamplingParams(n=2))
    assert caught.value.field == "sampling_params.n"
    assert not fake.chats


async def test_async_client_gives_the_same_answers(fake: FakeTokenizerService) -> None:
    async def get_time(city: str) -> str:
        return f"noon in {city}"

    async with AsyncClient(fake.address, timeout=30) as client:
        result = await client.chat("abc", enable_thinking=True)
        assert result.message == ChatMessage(Role.ASSISTANT, "cba", "3 letters")
        result, messages = await client.chat_with_tools("Time in Oslo?", [get_time, get_weather])
        assert messages[2].content == "noon in Oslo"
        assert result.message.content == "noon in Oslo"[::-1]
        with pytest.raises(InvalidRequestError):
            client.stream_chat("a", tool_choice="nothing")
        with pytest.raises(UnavailableError):
            await client.chat("!!UNAVAILABLE")


async def test_leaving_an_async_chat_cancels_the_call(fake: FakeTokenizerService) -> None:
    async with AsyncClient(fake.address) as client:
        async with aclosing(client.stream_chat("forever")) as stream:
            await anext(stream)
        assert await asyncio.to_thread(fake.cancelled.wait, 10)


def test_keywords_of_openai_reach_every_answer(client: Client, fake: FakeTokenizerService) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    client.chat_with_tools("Weather in Oslo?", [get_weather], tool_choice=choice, max_tokens=9)
    list(client.stream_chat("a", response_format={"type": "json_object"}, max_tokens=9))
    assert [chat.sampling_params.max_tokens for chat in fake.chats] == [9, 9, 9]
    assert [chat.tool_choice.name for chat in fake.chats] == ["get_weather", "", ""]
    assert fake.chats[2].response_format.HasField("json_object")
    with pytest.raises(InvalidRequestError, match="for one answer, not for 2"):
        client.chat_with_tools("a", [get_weather], n=2)

"""Conversations rendered and encoded within limits of size and processor time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from folovllm.errors import FolovError, InvalidRequestError, UnsupportedError
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1.tokenizer_service_pb2 import ApplyChatTemplateRequest as Request
from folovllm.v1.tokenizer_service_pb2 import ChatMessage as Message
from folovllm.v1.tokenizer_service_pb2 import Tool, ToolCall
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.text.tokenizer import Tokenizer

MAX_BYTES = 100
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
# Work for minutes where the first message says so.
SLOW = (
    "{% if messages[0].content == 'slow' %}"
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% endif %}done"
)
# A tenth of a second and more, and whatever else there is to render.
RATHER_SLOW = (
    "{% if messages[0].content == 'rather slow' %}"
    "{% for i in range(700) %}{% for j in range(7000) %}{% endfor %}{% endfor %}"
    "{% endif %}"
) + SLOW
Make = Callable[..., Renderer]


@pytest.fixture
async def renderer() -> AsyncIterator[Make]:
    """Makes renderers, which are closed at the end."""
    async with AsyncExitStack() as stack:

        def make(text: str, max_bytes: int = MAX_BYTES, max_seconds: float = 60.0) -> Renderer:
            template, tokenizer = ChatTemplate(text), Tokenizer(byte_tokenizer())
            renderer = Renderer(template, tokenizer, max_bytes, max_seconds=max_seconds)
            stack.push_async_callback(renderer.close)
            return renderer

        yield make


def user(content: str, *tools: Tool, count: int = 1) -> Request:
    one = Message(role=messages.ROLE_USER, content=content)
    return Request(messages=[one] * count, tools=tools)


def assistant(arguments: str) -> Request:
    calls = [ToolCall(name="f", arguments=arguments)]
    return Request(messages=[Message(role=messages.ROLE_ASSISTANT, tool_calls=calls)])


async def refusal(renderer: Renderer, request: Request) -> FolovError:
    with pytest.raises(FolovError) as refused:
        await renderer.render(request)
    return refused.value


async def test_the_text_is_encoded_as_it_is(renderer: Make) -> None:
    rendered = await renderer(PLAIN + "<|im_end|>").render(user("hello"))
    assert rendered.text == "hello<|im_end|>"
    assert rendered.token_ids == [259, 262]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (user("x" * 101), "messages"),
        (user("ü" * 51), "messages"),
        (
            Request(messages=[Message(role=messages.ROLE_ASSISTANT, reasoning_content="x" * 101)]),
            "messages",
        ),
        (assistant('{"a": "' + "x" * 92 + '"}'), "messages"),
        (user("x" * 50, Tool(name="f", description="x" * 50)), "tools"),
        (user("", Tool(name="f", parameters='{"a": "' + "x" * 92 + '"}')), "tools"),
        # So large that it shows without a look at the texts.
        (user("x" * 1000, count=200), "messages"),
        (user("x", *[Tool(name="f", description="x" * 1000)] * 128), "tools"),
    ],
)
async def test_the_texts_together_are_bounded(
    renderer: Make, request_: Request, field: str
) -> None:
    error = await refusal(renderer("short"), request_)
    assert isinstance(error, InvalidRequestError) and error.field == field
    assert "over the limit of 100 bytes" in str(error)


async def test_what_is_rendered_is_bounded(renderer: Make) -> None:
    twice = renderer(PLAIN + PLAIN)
    assert (await twice.render(user("x" * 50))).text == "x" * 100
    for content in ("x" * 51, "ü" * 26):
        error = await refusal(twice, user(content))
        assert isinstance(error, InvalidRequestError) and error.field == "messages"
        assert str(error) == "rendered they are over the limit of 100 bytes"


async def test_half_a_surrogate_pair_is_refused(renderer: Make) -> None:
    error = await refusal(renderer("{{ messages | tojson }}"), assistant('{"a": "\\ud800"}'))
    assert isinstance(error, InvalidRequestError) and error.field == "messages"


async def test_a_large_conversation_is_rendered_elsewhere_and_refused_alike(
    renderer: Make,
) -> None:
    plain = renderer(
        RATHER_SLOW + "{{ bos }}" + PLAIN + "{{ raise_exception('no') if tools }}", 10_000, 0.05
    )
    large = user("hellö", count=500)
    assert (await plain.render(large)).text == "done" + "hellö" * 500
    chat = messages.ChatRequest(messages=large.messages)
    assert (await plain.render(chat)).text == "done" + "hellö" * 500
    for request, field in (
        (user("x" * 21, count=500), "messages"),
        (Request(messages=[*large.messages, Message()]), "messages[500].role"),
        (Request(messages=large.messages, tools=[Tool(name="f")]), "messages"),
        (Request(messages=large.messages, tools=[Tool()]), "tools[0].name"),
        (user("", count=4097), "messages"),
    ):
        error = await refusal(plain, request)
        assert isinstance(error, InvalidRequestError) and error.field == field
    await check_turns(plain)
    await check_a_slow_template(plain)


async def check_turns(renderer: Renderer) -> None:
    """Who asks for too much is refused, and nobody waits for more than one such."""
    ended: list[str] = []

    async def ask(caller: str, content: str) -> None:
        try:
            await renderer.render(user(content, count=500), caller)
        except InvalidRequestError as error:
            assert (error.field, str(error), content) == (
                "messages",
                "rendering them: it takes more than 0.05 s of processor time",
                "slow",
            )
        ended.append(caller)

    await asyncio.gather(*(ask("greedy", "slow") for _ in range(3)), ask("another", "fast"))
    assert ended[-1] == "greedy", "another caller's turn comes before"


async def check_a_slow_template(renderer: Renderer) -> None:
    """One that is slow even with little gets no thread of ours."""
    assert (await renderer.render(user("rather slow"))).text == "donerather slow"
    error = await refusal(renderer, user("slow"))
    assert "more than 0.05 s of processor time" in str(error)


async def test_a_caller_that_leaves_stops_nothing(renderer: Make) -> None:
    plain = renderer(PLAIN)
    left = asyncio.create_task(plain.render(user("left")))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert (await plain.render(user("hello"))).text == "hello"


async def test_without_a_template(renderer: Make) -> None:
    none = renderer("")
    await none.warm_up()
    assert isinstance(await refusal(none, user("hello")), UnsupportedError)


async def test_warming_up_leaves_a_template_s_complaints_to_the_callers(renderer: Make) -> None:
    for text in ("{% if %}", "{{ raise_exception('no') }}"):
        await renderer(text).warm_up()


async def test_a_request_is_read_by_its_fields(renderer: Make) -> None:
    plain = renderer(PLAIN)
    for request, field in (
        (Request(messages=[Message(content="?")]), "messages[0].role"),
        (user("x", Tool()), "tools[0].name"),
        (Request(), "messages"),
    ):
        error = await refusal(plain, request)
        assert isinstance(error, InvalidRequestError) and error.field == field
    with pytest.raises(InvalidRequestError) as refused:
        await plain.read_tools(user("x", Tool(name="f"), Tool(name="g", parameters="[]")))
    assert refused.value.field == "tools[1].parameters"
    (tool,) = await plain.read_tools(user("x", Tool(name="f")))
    assert tool.name == "f"

"""Conversations rendered and encoded within limits of size and time."""

import asyncio

import pytest

from folovllm.chat import ChatMessage, Conversation, Role, Tool, ToolCall
from folovllm.errors import FolovError, InvalidRequestError, UnsupportedError
from folovllm.v1 import tokenizer_service_pb2 as messages
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.chat.renderer import Renderer
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.text.tokenizer import Tokenizer

MAX_BYTES = 100
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
# A good part of a second of work where the first message says so.
SLOW = (
    "{% if messages[0].content == 'slow' %}"
    "{% for i in range(2000) %}{% for j in range(2000) %}{% endfor %}{% endfor %}"
    "{% endif %}done"
)


def renderer(text: str, **options: float) -> Renderer:
    return Renderer(ChatTemplate(text), Tokenizer(byte_tokenizer()), MAX_BYTES, **options)


def user(content: str, *tools: Tool) -> Conversation:
    return Conversation((ChatMessage(Role.USER, content),), tools)


def assistant(arguments: str) -> Conversation:
    call = ToolCall("", "f", arguments)
    return Conversation((ChatMessage(Role.ASSISTANT, "", "", (call,)),))


async def refusal(renderer: Renderer, conversation: Conversation) -> FolovError:
    with pytest.raises(FolovError) as refused:
        await renderer.render(conversation)
    return refused.value


async def test_the_text_is_encoded_as_it_is() -> None:
    rendered = await renderer(PLAIN + "<|im_end|>").render(user("hello"))
    assert rendered.text == "hello<|im_end|>"
    assert rendered.token_ids == [259, 262]


@pytest.mark.parametrize(
    ("conversation", "field"),
    [
        (user("x" * 101), "messages"),
        (user("ü" * 51), "messages"),
        (Conversation((ChatMessage(Role.ASSISTANT, "", "x" * 101),)), "messages"),
        (assistant('{"a": "' + "x" * 92 + '"}'), "messages"),
        (user("x" * 50, Tool("f", "x" * 50)), "tools"),
        (user("", Tool("f", "", '{"a": "' + "x" * 92 + '"}')), "tools"),
    ],
)
async def test_the_texts_together_are_bounded(conversation: Conversation, field: str) -> None:
    error = await refusal(renderer("short"), conversation)
    assert isinstance(error, InvalidRequestError) and error.field == field
    assert "over the limit of 100 bytes" in str(error)


async def test_what_is_rendered_is_bounded() -> None:
    twice = renderer(PLAIN + PLAIN)
    assert (await twice.render(user("x" * 50))).text == "x" * 100
    for content in ("x" * 51, "ü" * 26):
        error = await refusal(twice, user(content))
        assert isinstance(error, InvalidRequestError) and error.field == "messages"
        assert str(error) == "rendered they are over the limit of 100 bytes"


async def test_half_a_surrogate_pair_is_refused() -> None:
    error = await refusal(renderer("{{ messages | tojson }}"), assistant('{"a": "\\ud800"}'))
    assert isinstance(error, InvalidRequestError) and error.field == "messages"


async def test_a_slow_template_is_refused_in_time_and_harms_no_other() -> None:
    slow = renderer(SLOW, time_limit=0.05)
    await slow.warm_up()
    # The third waits for a thread until its time is over.
    errors = await asyncio.gather(*(refusal(slow, user("slow")) for _ in range(3)))
    for error in errors:
        assert isinstance(error, InvalidRequestError) and error.field == "messages"
        assert str(error) == "rendering them takes longer than 0.05 s"
    patient = renderer(SLOW, time_limit=60)
    assert (await patient.render(user("slow"))).text == "done"
    while True:  # both threads come back when their work is done
        try:
            assert (await slow.render(user("fast"))).text == "done"
            return
        except InvalidRequestError as error:
            assert "takes longer" in str(error)


async def test_a_caller_that_leaves_stops_nothing() -> None:
    plain = renderer(PLAIN)
    left = asyncio.create_task(plain.render(user("left")))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert (await plain.render(user("hello"))).text == "hello"


async def test_without_a_template() -> None:
    none = renderer("")
    await none.warm_up()
    assert isinstance(await refusal(none, user("hello")), UnsupportedError)


async def test_warming_up_leaves_a_template_s_complaints_to_the_callers() -> None:
    for text in ("{% if %}", "{{ raise_exception('no') }}"):
        await renderer(text).warm_up()


async def test_a_request_is_read_by_its_fields() -> None:
    plain = renderer(PLAIN)
    Request, Message = messages.ApplyChatTemplateRequest, messages.ChatMessage
    long = Message(role=messages.ROLE_USER, content="x" * 5000)
    for request, field in (
        (Request(messages=[Message(content="?")]), "messages[0].role"),
        (
            Request(messages=[Message(role=messages.ROLE_USER)], tools=[messages.Tool()]),
            "tools[0].name",
        ),
        (Request(), "messages"),
        (Request(messages=[long]), "messages"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            await plain.read(request)
        assert refused.value.field == field
    many = Request(messages=[Message(role=messages.ROLE_USER)] * 4000)
    assert len((await plain.read(many)).messages) == 4000

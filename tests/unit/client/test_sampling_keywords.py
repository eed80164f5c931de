"""Sampling parameters as keywords of a call, alone and beside `sampling_params`."""

from collections.abc import Callable
from typing import Any

import pytest

from folovllm.errors import InvalidRequestError
from folovllm.parameters.local_fields import sent_fields
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2
from folovllm_client.api.chat_requests import chat_request
from folovllm_client.api.requests import generate_request
from folovllm_client.api.sampling_keywords import SamplingKeywords, with_keywords

CHOICE = StructuredOutput("choice", ("yes", "no"))


def sent(**options: Any) -> types_pb2.SamplingParams:
    """What a request sends; a chat sends the same."""
    message = generate_request("hi", **options).sampling_params
    assert chat_request("hi", **options).sampling_params == message
    return message


def test_keywords_are_the_fields_of_sampling_params() -> None:
    names = {each.name for each in sent_fields(SamplingParams)}
    assert {*SamplingKeywords.__annotations__} == names | {"max_completion_tokens", "top_logprobs"}


def test_keywords_alone_leave_the_rest_to_the_model() -> None:
    assert sent(max_tokens=32, top_k=5, stop="\n") == types_pb2.SamplingParams(
        max_tokens=32, top_k=5, stop=["\n"]
    )
    assert sent(min_tokens=20) == types_pb2.SamplingParams(min_tokens=20)
    assert sent(structured_output=CHOICE).choice.options == ["yes", "no"]
    assert not generate_request("hi", temperature=None).HasField("sampling_params")


def test_keywords_set_fields_of_sampling_params() -> None:
    params = SamplingParams(temperature=0.5, stop=("a",))
    assert sent(sampling_params=params, max_tokens=32) == params.clone(max_tokens=32).to_proto()
    message = types_pb2.SamplingParams(temperature=0.5, ignore_eos=True)
    assert sent(sampling_params=message, logprobs=3) == types_pb2.SamplingParams(
        temperature=0.5, ignore_eos=True, logprobs=3
    )
    assert params == SamplingParams(temperature=0.5, stop=("a",))
    assert message == types_pb2.SamplingParams(temperature=0.5, ignore_eos=True)


def test_none_is_not_given_save_for_max_tokens() -> None:
    params = SamplingParams(temperature=0.5)
    assert with_keywords(params, dict.fromkeys(SamplingKeywords.__annotations__)) == params.clone(
        max_tokens=None
    )


@pytest.mark.parametrize(
    ("options", "logprobs"),
    [
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": 5}, 5),
        ({"logprobs": 0}, 0),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
    ],
)
def test_log_probabilities_as_openai_and_vllm_ask_for_them(
    options: dict[str, Any], logprobs: int | None
) -> None:
    message = sent(**options)
    assert (message.logprobs if message.HasField("logprobs") else None) == logprobs


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be "),
        ({"temperature": "hot"}, "temperature", "temperature must be a number"),
        ({"temperature": True}, "temperature", "temperature must be a number"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "is over max_tokens"),
        ({"min_tokens": 17, "sampling_params": SamplingParams()}, "min_tokens", "is over"),
        ({"max_tokens": 8, "max_completion_tokens": 8}, "max_tokens", "are the same"),
        ({"top_logprobs": 2}, "logprobs", "top_logprobs=2 needs logprobs=True"),
        ({"logprobs": 3, "top_logprobs": 2}, "logprobs", "needs logprobs=True"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "must have token ids as keys"),
        ({"logit_bias": {"1": 101}}, "logit_bias[1]", "must be between -100 and 100"),
        ({"seed": 1, "sampling_params": SamplingParams(seed=2)}, "seed", "seed is given twice"),
        ({"sampling_params": SamplingParams(detokenize=False)}, "detokenize", "no server takes it"),
        (
            {"max_completion_tokens": 1, "sampling_params": types_pb2.SamplingParams(max_tokens=2)},
            "max_tokens",
            "max_tokens is given twice",
        ),
        (
            {"structured_output": CHOICE, "sampling_params": types_pb2.SamplingParams(regex="a")},
            "structured_output",
            "structured_output is given twice",
        ),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], field: str, message: str) -> None:
    for request in (generate_request, chat_request):
        with pytest.raises(InvalidRequestError, match=message) as caught:
            request("hi", **options)
        assert caught.value.field == f"sampling_params.{field}"


@pytest.mark.parametrize(
    ("request_of", "keyword", "error", "message"),
    [
        (generate_request, "temprature", TypeError, "argument 'temprature'; did you mean 'temper"),
        (chat_request, "tool_choise", TypeError, "'tool_choise'; did you mean 'tool_choice'"),
        (chat_request, "qqqqq", TypeError, "got an unexpected keyword argument 'qqqqq'$"),
        (generate_request, "stream", InvalidRequestError, "^stream is not supported: call stream"),
    ],
)
def test_an_unknown_keyword_is_told_what_to_be(
    request_of: Callable[..., object], keyword: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        request_of("hi", **{keyword: 1})


def test_a_dict_of_parameters_is_told_what_to_be() -> None:
    options: dict[str, Any] = {"sampling_params": {"n": 2}}
    with pytest.raises(InvalidRequestError, match="must be SamplingParams, got {'n': 2}; keywords"):
        generate_request("hi", **options)

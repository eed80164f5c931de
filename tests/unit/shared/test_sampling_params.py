import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folovllm.errors import InvalidRequestError
from folovllm.parameters.local_fields import sent_fields
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("n", True),
        ("n", 1.5),
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("top_k", -2),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", -2),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 17),
        ("stop", ["a" * 257]),
        ("stop", [3]),
        ("stop", 3),
        ("logit_bias", 3),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", range(129)),
        ("ignore_eos", 1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logprobs", 21),
        ("prompt_logprobs", -1),
        ("bad_words", [""]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=field) as refused:
        SamplingParams().clone(**{field: value})
    assert refused.value.field.partition("[")[0] == f"sampling_params.{field}"
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "output",
    [
        StructuredOutput("regex", ""),
        StructuredOutput("choice", ()),
        StructuredOutput("choice", ("a", "")),
        StructuredOutput("grammar", "x" * 65537),
        StructuredOutput("prose", "x"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_constraint_is_refused(output: StructuredOutput) -> None:
    with pytest.raises(InvalidRequestError):
        SamplingParams(structured_output=output)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end_token_id", -1),
        ("end_token_id", None),
        ("start_token_id", 2**32),
        ("start_token_id", "<think>"),
        ("max_tokens", -1),
        ("max_tokens", True),
    ],
)
def test_bad_reasoning_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        dataclasses.replace(Reasoning(end_token_id=7), **{field: value})
    assert refused.value.field == f"sampling_params.reasoning.{field}"


def test_what_people_write_is_normalised() -> None:
    params = SamplingParams(stop="end", stop_token_ids=[3], logit_bias={7: 1.0, 2: -1.0})  # type: ignore[arg-type]
    assert params.stop == ("end",)
    assert params.stop_token_ids == (3,)
    assert params.logit_bias == ((2, -1.0), (7, 1.0))
    assert SamplingParams(temperature=0).greedy and not SamplingParams().greedy


@pytest.mark.parametrize(
    ("params", "alters_logits", "looks_back"),
    [
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.1, "stop_token_ids": (1, 2)}, False, False),
        ({"presence_penalty": 0.1}, True, True),
        ({"frequency_penalty": -0.1}, True, True),
        ({"repetition_penalty": 1.1}, True, True),
        ({"logit_bias": {1: 1.0}}, True, False),
        ({"allowed_token_ids": (1,)}, True, False),
        ({"bad_words_token_ids": ((1,),)}, False, False),
        ({"bad_words_token_ids": ((1,), (2, 3))}, False, True),
    ],
)
def test_what_parameters_need(
    params: dict[str, Any], alters_logits: bool, looks_back: bool
) -> None:
    made = SamplingParams(**params)
    assert (made.alters_logits, made.looks_back) == (alters_logits, looks_back)


def test_unset_fields_take_the_defaults_and_set_ones_do_not() -> None:
    message = types_pb2.SamplingParams(temperature=0.0, top_k=0)
    defaults = SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
    params = SamplingParams.from_proto(message, defaults)
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 0, 0.95)
    assert params.max_tokens == 16 and params.skip_special_tokens


floats = st.floats(0.01, 1.0).map(lambda x: float(f"{x:.7g}"))
valid_params = st.builds(
    SamplingParams,
    n=st.integers(1, 128),
    temperature=floats,
    top_p=floats,
    top_k=st.integers(-1, 1000),
    min_p=floats,
    seed=st.none() | st.integers(0, 2**64 - 1),
    max_tokens=st.integers(10, 1000),
    min_tokens=st.integers(0, 10),
    stop=st.lists(st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable()), max_size=16),
    stop_token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=8),
    ignore_eos=st.booleans(),
    include_stop_str_in_output=st.booleans(),
    skip_special_tokens=st.booleans(),
    presence_penalty=floats,
    frequency_penalty=floats,
    repetition_penalty=floats,
    logit_bias=st.dictionaries(st.integers(0, 99), floats, max_size=4),
    allowed_token_ids=st.lists(st.integers(0, 99), max_size=4),
    bad_words=st.lists(st.just("bad"), max_size=2),
    logprobs=st.none() | st.integers(0, 20),
    prompt_logprobs=st.none() | st.integers(0, 20),
    structured_output=st.none()
    | st.sampled_from(
        [
            StructuredOutput("json_schema", "{}"),
            StructuredOutput("json_object", True),
            StructuredOutput("regex", "a+"),
            StructuredOutput("choice", ("yes", "no")),
            StructuredOutput("grammar", 'start: "a"'),
        ]
    ),
    reasoning=st.none()
    | st.builds(
        Reasoning,
        end_token_id=st.integers(0, 2**32 - 1),
        start_token_id=st.none() | st.integers(0, 2**32 - 1),
        max_tokens=st.none() | st.integers(0, 2**32 - 1),
    ),
)


@given(valid_params)
def test_a_round_trip_over_the_wire_changes_nothing(params: SamplingParams) -> None:
    data = params.to_proto().SerializeToString()
    assert SamplingParams.from_proto(types_pb2.SamplingParams.FromString(data)) == params


def test_every_field_of_the_contract_has_its_field_here_and_back() -> None:
    ours = {field.name for field in sent_fields(SamplingParams)}
    message = types_pb2.SamplingParams.DESCRIPTOR
    union = {field.name for field in message.oneofs_by_name["structured_output"].fields}
    theirs = {field.name for field in message.fields} - union | {"structured_output"}
    assert ours == theirs


@given(st.binary(max_size=200))
def test_no_bytes_from_the_wire_crash_the_reader(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        message = types_pb2.SamplingParams.FromString(data)
    except DecodeError:
        return
    try:
        SamplingParams.from_proto(message)
    except InvalidRequestError as error:
        assert error.field.startswith("sampling_params.")

"""What code written for vLLM passes to SamplingParams: followed, refused by name, or warned of."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from folovllm.errors import InvalidRequestError
from folovllm.parameters.structured_output import (
    GuidedDecodingParams,
    StructuredOutput,
    StructuredOutputsParams,
)
from folovllm.sampling_params import SamplingParams
from folovllm.vllm_names import VLLM_DEFAULTS, NoEffectWarning, RequestOutputKind, VllmNames

SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"json": SCHEMA}, StructuredOutput("json_schema", '{"type": "object"}')),
        ({"json": "{}"}, StructuredOutput("json_schema", "{}")),
        ({"json_schema": SCHEMA}, StructuredOutput("json_schema", '{"type": "object"}')),
        ({"json_object": True}, StructuredOutput("json_object", True)),
        ({"regex": "a+"}, StructuredOutput("regex", "a+")),
        ({"choice": ["yes", "no"]}, StructuredOutput("choice", ("yes", "no"))),
        ({"grammar": 'start: "a"'}, StructuredOutput("grammar", 'start: "a"')),
        (StructuredOutputsParams(regex="a+"), StructuredOutput("regex", "a+")),
        (GuidedDecodingParams(choice=["a"]), StructuredOutput("choice", ("a",))),
    ],
)
def test_a_structured_output_may_have_any_form(given: Any, meant: StructuredOutput) -> None:
    for name in ("structured_output", "structured_outputs", "guided_decoding"):
        params: Any = SamplingParams(**{name: given})
        assert params.structured_output == params.structured_outputs == meant
        assert SamplingParams.from_proto(params.to_proto()) == params


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ("json", "structured_output", "StructuredOutputsParams or dict, got str"),
        (SCHEMA, "structured_output", 'not type; a schema is {"json": schema}'),
        ({}, "structured_outputs", "takes one of json, .*; got none"),
        ({"regex": "a", "json": "{}"}, "structured_outputs", "got json and regex"),
        ({"json_object": False}, "structured_outputs.json_object", "must be true"),
        ({"regex": "a", "backend": "x"}, "structured_outputs.backend", "llguidance"),
        (
            {"json": "{}", "whitespace_pattern": " "},
            "structured_outputs.whitespace_pattern",
            "is not supported",
        ),
        ({"regex": ""}, "regex", "must not be empty"),
    ],
)
def test_a_structured_output_of_no_form_is_refused_by_name(
    given: Any, field: str, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as refused:
        SamplingParams(structured_output=given)
    assert refused.value.field == f"sampling_params.{field}"


def test_two_structured_outputs_are_refused() -> None:
    mine = StructuredOutput("regex", "a")
    for others in ({"structured_output": mine}, {"guided_decoding": {"regex": "a"}}):
        assert SamplingParams(structured_outputs=mine, **others).structured_output == mine
        with pytest.raises(InvalidRequestError, match="give one of them"):
            SamplingParams(structured_outputs={"regex": "b"}, **others)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", 2),
        ("logits_processors", [print]),
        ("extra_args", {"a": 1}),
        ("logprob_token_ids", [1]),
        ("prompt_logprob_token_ids", [[1]]),
        ("prompt_logprob_start", 1),
        ("thinking_token_budget", 0),
        ("skip_reading_prefix_cache", True),
        ("stream_interval", 2),
        ("repetition_detection", object()),
        ("watermarking", True),
        ("routed_experts_prompt_start", 1),
        ("trace_decode_token_ids", [1]),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{name} is not supported: ") as refused:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert refused.value.field == f"sampling_params.{name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("spaces_between_special_tokens", False), ("skip_clone", True), ("flat_logprobs", True)],
)
def test_what_makes_no_difference_warns_by_name(name: str, value: bool) -> None:
    with pytest.warns(NoEffectWarning, match=f"^{name} has no effect: ") as warned:
        params = SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert len(warned) == 1 and params == SamplingParams()


def test_defaults_of_vllm_ask_for_nothing() -> None:
    names = VllmNames.__dataclass_fields__
    given: dict[str, Any] = dict(zip(names, VLLM_DEFAULTS, strict=True))
    assert SamplingParams(**given) == SamplingParams()
    nothing = dict.fromkeys(names) | {"extra_args": {}, "watermarking": False}
    assert SamplingParams(**nothing) == SamplingParams()  # type: ignore[arg-type]


def test_every_name_is_followed_refused_or_warned_of() -> None:
    """A name without its reason would be taken for a structured output."""
    plain = {n for n, each in VllmNames.__dataclass_fields__.items() if not each.metadata}
    assert plain == {"structured_outputs", "guided_decoding"}


def test_arguments_without_names_are_in_vllms_order() -> None:
    params = SamplingParams(2, 0.1, 0.2, 1.3, 0.4)
    assert (params.n, params.presence_penalty, params.frequency_penalty) == (2, 0.1, 0.2)
    assert (params.repetition_penalty, params.temperature) == (1.3, 0.4)
    with pytest.raises(TypeError, match="positional"):
        SamplingParams(*(2, 0.1, 0.2, 1.3, 0.4, 0.5))  # type: ignore[call-arg,arg-type]


def test_a_seed_of_minus_one_is_none() -> None:
    assert SamplingParams(seed=-1).seed is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detokenize", False),
        ("truncate_prompt_tokens", 3),
        ("output_kind", RequestOutputKind.FINAL_ONLY),
    ],
)
def test_what_is_for_this_process_is_not_sent(name: str, value: Any) -> None:
    params = SamplingParams(**{name: value})
    assert getattr(params, name) == value
    with pytest.raises(InvalidRequestError, match=f"^{name} ") as refused:
        params.to_proto()
    assert refused.value.field == f"sampling_params.{name}"


def test_streams_are_deltas_so_that_these_may_be_asked_for() -> None:
    message = SamplingParams(output_kind=RequestOutputKind.DELTA).to_proto()
    assert SamplingParams.from_proto(message) == SamplingParams()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"output_kind": 1}, "output_kind"),
        ({"detokenize": False, "stop": "end"}, "stop"),
        ({"stop": 3}, "stop"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field} ") as refused:
        SamplingParams(**given)
    assert refused.value.field == f"sampling_params.{field}"


def test_a_prompts_last_tokens_are_kept() -> None:
    assert SamplingParams(truncate_prompt_tokens=2).truncate([1, 2, 3]) == [2, 3]
    assert SamplingParams(truncate_prompt_tokens=5).truncate([1, 2, 3]) == [1, 2, 3]
    assert SamplingParams().truncate([1, 2, 3]) == [1, 2, 3]


def test_copies_keep_or_change_the_structured_output() -> None:
    params = SamplingParams(structured_outputs={"regex": "a"}, seed=1)
    assert params == copy.deepcopy(params) == pickle.loads(pickle.dumps(params))
    assert params == params.clone() == dataclasses.replace(params)
    assert params.clone(structured_output=None).structured_output is None
    changed = params.clone(guided_decoding={"regex": "b"})
    assert changed.structured_output == StructuredOutput("regex", "b") and changed.seed == 1


def test_from_optional_takes_none_for_the_default() -> None:
    params = SamplingParams.from_optional(
        n=None, temperature=None, max_tokens=None, stop=None, logit_bias={"7": 500.0, 3: -1.0}
    )
    assert params == SamplingParams(max_tokens=None, logit_bias=((3, -1.0), (7, 100.0)))
    with pytest.raises(InvalidRequestError, match="token ids as keys, got 'x'"):
        SamplingParams.from_optional(logit_bias={"x": 1.0})


def test_stop_token_ids_are_a_set_too() -> None:
    assert SamplingParams(stop_token_ids=(3, 5, 3)).all_stop_token_ids == {3, 5}

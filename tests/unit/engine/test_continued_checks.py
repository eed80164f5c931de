"""What cannot be continued is refused, by the field of the contract, before anything runs."""

import re
from math import inf, nan
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Request
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.continued.checks import check_continued
from engine_service.engine.request_cost import request_cost
from engine_service.rpc.request_reader import read_generate
from folovllm.bounds.check_bounds import check_bounds
from folovllm.errors import InvalidRequestError
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2

EOS = 9
INFO = ModelInfo(
    vocab_size=100, eos_token_ids=(EOS,), max_model_len=40, num_kv_blocks=9, block_size=16
)
PROMPT = list(range(10, 20))
PARAMS = SamplingParams(n=2, seed=3, max_tokens=20, stop_token_ids=(50,))
Output = ContinuedOutput


def refused(
    outputs: list[ContinuedOutput],
    params: SamplingParams = PARAMS,
    num_parent_output_tokens: int = 0,
    **more: int,
) -> tuple[str, str] | None:
    """The field and the reason, if it is refused."""
    request = Request(
        "a",
        PROMPT,
        params,
        num_parent_output_tokens=num_parent_output_tokens,
        continued=Continued(outputs, **more),
    )
    try:
        check_continued(request, INFO)
    except InvalidRequestError as error:
        return error.field, str(error)
    return None


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"ignore_eos": True, "min_tokens": 4},
        {"max_tokens": None},
        {"n": 1},
        {"logprobs": 2},
        {"prompt_logprobs": 1},
    ],
)
def test_what_could_have_been_generated_is_admitted(params: dict[str, Any]) -> None:
    given = PARAMS.clone(**params)
    # Neither ends the output before min_tokens, and EOS not at all if it is ignored.
    ids = (*((EOS, 50) if given.min_tokens else ()), *range(5))
    logprobs = [-0.5] * len(ids) if given.logprobs is not None else []
    outputs = [Output(given.n - 1, ids, logprobs=logprobs), Output(0)][: given.n]
    assert refused(outputs, given) is None


@pytest.mark.parametrize(
    ("outputs", "params", "field", "reason"),
    [
        ([], {}, "outputs", "list the continuations that have not ended"),
        ([Output(0), Output(2)], {}, "outputs[1].index", r"below n \(2\), got 2"),
        ([Output(1), Output(1)], {}, "outputs[1].index", "1 is listed twice"),
        ([Output(0, range(20))], {}, "outputs[0].token_ids", "20 ids end the output: max_tokens"),
        ([Output(0, [1] * 30)], {"max_tokens": None}, "outputs[0].token_ids", "40 tokens"),
        ([Output(0), Output(1, [1, 100])], {}, "outputs[1].token_ids", "token id 100 is unknown"),
        ([Output(0, [1, EOS, 2])], {}, "outputs[0].token_ids[1]", "id 9 ends the output"),
        ([Output(0, [1, EOS])], {"min_tokens": 1}, "outputs[0].token_ids[1]", "id 9 ends"),
        ([Output(0, [1, 2, 50])], {"ignore_eos": True}, "outputs[0].token_ids[2]", "id 50 ends"),
        ([Output(0, [1, 2])], {"logprobs": 0}, "outputs[0].logprobs", "2 entries .*, got 0"),
        (
            [Output(0, [1], logprobs=[-1.0, -1.0])],
            {"logprobs": 0},
            "outputs[0].logprobs",
            "1 entries .*, got 2",
        ),
        ([Output(0, [1], logprobs=[-1.0])], {}, "outputs[0].logprobs", "0 entries .*not asked for"),
        ([Output(0, [1], logprobs=[nan])], {"logprobs": 0}, "outputs[0].logprobs", "finite"),
        ([Output(0, [1], logprobs=[-inf])], {"logprobs": 0}, "outputs[0].logprobs", "finite"),
    ],
)
def test_what_could_not_is_refused(
    outputs: list[ContinuedOutput], params: dict[str, Any], field: str, reason: str
) -> None:
    found = refused(outputs, PARAMS.clone(**params))
    assert found is not None
    assert found[0] == f"continued.{field}"
    assert re.search(reason, found[1])


def test_a_seed_is_needed() -> None:
    found = refused([Output(0)], PARAMS.clone(seed=None))
    assert found is not None and found[0] == "sampling_params.seed"


@pytest.mark.parametrize(
    ("params", "branch", "field"),
    [
        ({"n": 2}, (3, 0), "sampling_params.n"),
        ({"n": 2}, (0, 1), "sampling_params.n"),
        ({"n": 1, "prompt_logprobs": 1}, (3, 1), "sampling_params.prompt_logprobs"),
        ({"n": 1}, (10, 0), "continued.num_parent_output_tokens"),
        ({"n": 1}, (9, 127), None),
    ],
)
def test_a_branch_is_one_continuation_of_a_parents_output(
    params: dict[str, Any], branch: tuple[int, int], field: str | None
) -> None:
    found = refused(
        [Output(0)],
        PARAMS.clone(**params),
        num_parent_output_tokens=branch[0],
        branch_index=branch[1],
    )
    assert (found and found[0]) == field


def test_a_long_output_costs_its_tokens_and_what_has_ended_nothing() -> None:
    whole = request_cost(Request("a", PROMPT, PARAMS), 40)
    outputs = [Output(1, [1] * 15)]
    rest = request_cost(Request("a", PROMPT, PARAMS, continued=Continued(outputs)), 40)
    assert rest.num_tokens == whole.num_tokens / 2
    assert rest.num_kv_tokens == len(PROMPT) + 20 < whole.num_kv_tokens


# The message.

ENGINE = cast(
    AsyncEngine,
    SimpleNamespace(
        info=INFO,
        default_sampling_params=SamplingParams(temperature=0.3, top_k=7),
        clock=lambda: 1000.0,
    ),
)


def message(**fields: Any) -> types_pb2.Request:
    given: dict[str, Any] = {
        "prompt_token_ids": PROMPT,
        "sampling_params": PARAMS.clone(logprobs=0).to_proto(),
        "continued": {"outputs": [{"index": 1, "token_ids": [4, 5], "logprobs": [-0.25, -1.5]}]},
    }
    return types_pb2.Request(**(given | fields))


def test_a_message_is_read() -> None:
    read = message()
    read.continued.branch_index = 0
    request = read_generate(read, ENGINE).request
    assert request.continued is not None and request.seed == 3 and request.num_outputs == 1
    (output,) = request.continued.outputs
    assert (output.index, list(output.token_ids)) == (1, [4, 5])
    assert list(output.logprobs) == [-0.25, -1.5] and output.cumulative_logprob == -1.75


def test_a_branchs_message_is_read() -> None:
    params = PARAMS.clone(n=1).to_proto()
    continued = {"outputs": [{}], "num_parent_output_tokens": 4, "branch_index": 2}
    request = read_generate(message(sampling_params=params, continued=continued), ENGINE).request
    assert request.num_parent_output_tokens == 4
    assert request.continued is not None and request.continued.branch_index == 2


def test_no_default_of_the_model_is_resolved_anew() -> None:
    read = message(continued={"outputs": [{}]}, sampling_params={"seed": 1, "max_tokens": 9})
    params = read_generate(read, ENGINE).request.sampling_params
    assert params == SamplingParams(seed=1, max_tokens=9)


@pytest.mark.parametrize("name", ["seed", "max_tokens"])
def test_parameters_must_be_resolved(name: str) -> None:
    read = message()
    read.sampling_params.ClearField(cast(Any, name))
    with pytest.raises(InvalidRequestError, match=f"needs the {name}") as caught:
        read_generate(read, ENGINE)
    assert caught.value.field == f"sampling_params.{name}"


@pytest.mark.parametrize(
    ("continued", "field"),
    [
        ({}, "continued.outputs"),
        ({"outputs": [{}] * 129}, "continued.outputs"),
        ({"outputs": [{}], "branch_index": 128}, "continued.branch_index"),
    ],
)
def test_bounds_name_the_field(continued: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_bounds(message(continued=continued))
    assert caught.value.field == field


def test_what_is_too_long_is_refused_before_it_is_copied() -> None:
    read = message(sampling_params=PARAMS.clone(logprobs=0, max_tokens=30).to_proto())
    read.continued.outputs.add(index=0, token_ids=[1] * 31)
    with pytest.raises(InvalidRequestError, match="31 ids end the output") as caught:
        read_generate(read, ENGINE)
    assert caught.value.field == "continued.outputs[1].token_ids"
    read.continued.outputs[1].index = 2  # said first
    with pytest.raises(InvalidRequestError) as caught:
        read_generate(read, ENGINE)
    assert caught.value.field == "continued.outputs[1].index"

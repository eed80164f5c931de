import pytest

from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.outputs import (
    CompletionOutput,
    FinishReason,
    RequestInfo,
    RequestMetrics,
    RequestOutput,
)
from folovllm.sampling_params import SamplingParams

POSITION = PositionLogprobs(Logprob(5, -1.5, 2), (Logprob(9, -0.5, 1), Logprob(5, -1.5, 2)))


def finished(index: int, seconds: float) -> CompletionOutput:
    metrics = RequestMetrics(queue=0.5, decode=seconds)
    return CompletionOutput("r", index, finish_reason=FinishReason.STOP, metrics=metrics)


def test_log_probabilities_are_indexed_by_token_id() -> None:
    assert POSITION[9].logprob == -0.5 and POSITION[5].rank == 2
    assert list(POSITION) == [5, 9] and len(POSITION) == 2
    assert 9 in POSITION and POSITION.get(1) is None
    assert dict(POSITION) == {5: POSITION.token, 9: POSITION.top[0]}
    assert max(POSITION, key=lambda token_id: POSITION[token_id].logprob or 0.0) == 9
    with pytest.raises(KeyError):
        POSITION[1]


def test_a_position_is_equal_to_its_like_alone() -> None:
    assert PositionLogprobs.from_proto(POSITION.to_proto()) == POSITION
    assert PositionLogprobs(POSITION.token) != POSITION


def test_the_first_prompt_token_has_no_log_probability() -> None:
    first = PositionLogprobs(Logprob(3, None, None))
    info = RequestInfo(SamplingParams(), prompt_logprobs=(first, POSITION), cached_tokens=7)
    output = RequestOutput(info=info)
    assert output.prompt_logprobs == [None, POSITION]
    assert output.num_cached_tokens == 7


def test_without_info_nothing_is_known() -> None:
    output = RequestOutput()
    assert output.prompt_logprobs is None
    assert output.num_cached_tokens is None
    assert output.metrics is None
    assert RequestOutput(info=RequestInfo(SamplingParams())).prompt_logprobs is None


def test_metrics_are_those_of_the_continuation_that_took_longest() -> None:
    running = RequestOutput(outputs=[finished(0, 1.0), CompletionOutput("r", 1)])
    assert running.metrics is None and not running.finished
    ended = RequestOutput(outputs=[finished(0, 1.0), finished(1, 3.0), finished(2, 2.0)])
    assert ended.metrics is ended.outputs[1].metrics
    assert ended.metrics is not None and ended.metrics.total == 3.5


def test_finished_is_asked_of_a_continuation_and_read_of_a_request() -> None:
    output = RequestOutput(outputs=[finished(0, 1.0)])
    assert output.outputs[0].finished() is True and output.finished is True

"""Requests to an engine that may be a step ahead, and their outputs."""

from engine_service.core.request import Request, Sequence
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.sampling_params import SamplingParams
from support.fakes.engine_factory import sequence_of
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import expected_tokens
from support.fakes.overlapping_runner import OverlappingFakeModelRunner
from support.integrity import check_integrity

PROMPT = list(range(1, 11))
Results = dict[str, RequestOutput]


def add(
    engine: LLMEngine,
    name: str,
    prompt: list[int] = PROMPT,
    matcher: FakeMatcher | None = None,
    **params: object,
) -> Sequence:
    """Adds a request, and returns its first sequence."""
    engine.add_request(Request(name, prompt, SamplingParams().clone(**params), seed=7), matcher)
    return sequence_of(engine, name)


def join(results: Results, outputs: list[CompletionOutput]) -> None:
    for output in outputs:
        results.setdefault(output.request_id, RequestOutput()).add(output)


def run(engine: LLMEngine, results: Results | None = None) -> Results:
    """Steps until nothing is left, not even a step in flight, checked after each."""
    results = {} if results is None else results
    while engine.has_unfinished_requests():
        join(results, engine.step())
        check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == engine.info.num_kv_blocks
    return results


def says(num_tokens: int, prompt: list[int] = PROMPT, index: int = 0) -> list[int]:
    return expected_tokens(prompt, num_tokens, seed=7, index=index)


def tokens(result: RequestOutput, index: int = 0) -> list[int]:
    return result.outputs[index].token_ids


def launched_ids(runner: OverlappingFakeModelRunner) -> list[list[int]]:
    """The seq_ids of each step."""
    return [[part.seq_id for part in step.scheduled] for step in runner.launched]

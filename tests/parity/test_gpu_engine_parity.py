"""With the GPU's runner an engine gives the tokens and log-probabilities that the CPU's gives."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.request import Branch, Request
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.outputs import FinishReason, RequestOutput
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from support.builders.gpu_engine import BLOCK_SIZE, gpu_engine
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.builders.tiny_models import VOCAB_SIZE, make_checkpoint
from support.integrity import check_integrity
from support.twins.gpu_twins import DEVICE

GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
RANDOM = GREEDY.clone(temperature=0.9, seed=3)
DIGITS = StructuredOutput("regex", "[0-9]{2,5}x")
REQUESTS: Mapping[str, tuple[int, SamplingParams]] = {
    "greedy": (14, GREEDY),
    "filtered": (15, RANDOM.clone(top_k=20, top_p=0.9, min_p=0.02)),
    "in chunks": (60, GREEDY.clone(max_tokens=2)),
    "several": (6, RANDOM.clone(n=3, max_tokens=3)),
    "logprobs": (7, RANDOM.clone(logprobs=3, prompt_logprobs=2, max_tokens=3)),
    "penalties": (8, GREEDY.clone(repetition_penalty=1.3, frequency_penalty=0.5)),
    "few": (14, RANDOM.clone(allowed_token_ids=(30, 31, 32, 33))),
    "bad words": (4, GREEDY.clone(allowed_token_ids=(30, 31), bad_words_token_ids=((30, 31),))),
    "min_tokens": (3, GREEDY.clone(ignore_eos=False, min_tokens=2, stop_token_ids=(31, 33))),
    "digits": (4, RANDOM.clone(n=2, structured_output=DIGITS)),
}

# numpy's, under the interpreter, of what tokens that are padding compute.
# Measuring coverage doubles the interpreter's time, and the kernels' own tests cover them.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning"), pytest.mark.no_cover]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """On a CPU what is not written is NaN: the cache at first, and what padding attends to."""
    torch.use_deterministic_algorithms(DEVICE.type == "cpu")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    return save_byte_tokenizer(make_checkpoint("qwen3_one_layer", folder, seed=1))


def cpu_engine(folder: Path) -> LLMEngine:
    return build_engine(
        EngineConfig(
            ModelConfig(str(folder), dtype="float32", device="cpu"),
            CacheConfig(BLOCK_SIZE, 100),
            SchedulerConfig(8, 48, speculation="none"),
        )
    )


def add(engine: LLMEngine, name: str, length: int, params: SamplingParams) -> None:
    """With a prompt that the name decides."""
    generator = torch.Generator().manual_seed(len(name))
    prompt = torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()
    engine.add_request(Request(name, prompt, params))


def check_free(engine: LLMEngine) -> None:
    """That nothing is held any more."""
    check_integrity(engine.scheduler)
    load = engine.load()
    assert load.num_running == load.num_waiting == 0
    assert load.num_free_kv_blocks == engine.info.num_kv_blocks


def compare(found: Mapping[str, RequestOutput], wanted: Mapping[str, RequestOutput]) -> None:
    assert found.keys() == wanted.keys()
    for name, result in found.items():
        for output, other in zip(result.outputs, wanted[name].outputs, strict=True):
            assert output.token_ids == other.token_ids, name
            assert output.finish_reason == other.finish_reason, name
            for position, logprob in zip(output.logprobs, other.logprobs, strict=True):
                assert position.token.logprob == pytest.approx(logprob.token.logprob, abs=1e-3)
        assert result.info and wanted[name].info
        ours, theirs = (
            [position.token.logprob for position in info.prompt_logprobs[1:]]
            for info in (result.info, wanted[name].info)
            if info
        )
        assert ours == pytest.approx(theirs, abs=1e-3)


def answers(engine: LLMEngine) -> dict[str, RequestOutput]:
    """All requests, one more at every step."""
    waiting = dict(REQUESTS)
    results = {name: RequestOutput() for name in waiting}
    while waiting or engine.has_unfinished_requests():
        if waiting:
            name = next(iter(waiting))
            add(engine, name, *waiting.pop(name))
        for output in engine.step():
            results[output.request_id].add(output)
    check_free(engine)
    return results


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, RequestOutput]:
    return answers(cpu_engine(folder))


@pytest.mark.parametrize("num_blocks", [100, 7], ids=["enough blocks", "preempted"])
def test_same_answers(num_blocks: int, folder: Path, expected: dict[str, RequestOutput]) -> None:
    found = answers(gpu_engine(folder, num_blocks))
    compare(found, expected)
    preemptions = [
        output.metrics.preemptions
        for result in found.values()
        for output in result.outputs
        if output.metrics
    ]
    assert any(preemptions) == (num_blocks == 7)


def branched(engine: LLMEngine) -> dict[str, RequestOutput]:
    """A request that is forked, and aborts beside it, each once it has said so much."""
    overlapping = engine.info.device != "cpu"
    results = {name: RequestOutput() for name in ("trunk", "gone", "some", "branches")}

    def fork() -> None:
        branches = [
            Branch(params, seed=5)
            for params in (GREEDY, RANDOM, RANDOM.clone(structured_output=DIGITS))
        ]
        engine.fork_request("trunk", 0, "branches", branches)

    def abort(name: str, *indexes: int) -> None:
        assert engine.has_step_in_flight == overlapping
        for output in engine.abort_request(name, indexes):
            results[name].add(output)

    events: dict[tuple[str, int, int], Callable[[], None]] = {
        ("trunk", 0, 2): lambda: abort("gone"),
        ("trunk", 0, 3): fork,
        ("some", 1, 2): lambda: abort("some", 1),
        ("trunk", 0, 5): lambda: abort("trunk"),
    }
    add(engine, "trunk", 17, GREEDY.clone(max_tokens=30))
    add(engine, "gone", 20, RANDOM.clone(max_tokens=30))
    add(engine, "some", 4, RANDOM.clone(n=2, max_tokens=7))
    while engine.has_unfinished_requests():
        outputs = engine.step()
        for output in outputs:
            results[output.request_id].add(output)
        for output in outputs:
            said = len(results[output.request_id].outputs[output.index].token_ids)
            events.pop((output.request_id, output.index, said), lambda: None)()
    assert not events
    check_free(engine)
    return results


def test_forks_and_aborts_while_a_step_is_in_flight(folder: Path) -> None:
    found = branched(gpu_engine(folder, 100))
    compare(found, branched(cpu_engine(folder)))
    assert found["gone"].outputs[0].finish_reason == FinishReason.ABORT
    assert len(found["branches"].outputs) == 3
    assert all(48 <= token <= 57 for token in found["branches"].outputs[2].token_ids[:2])

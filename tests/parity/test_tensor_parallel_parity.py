"""Two ranks, as processes, give the tokens of one: the whole engine, roomy and preempting.

On the GPU's kernels, as threads, they give the logits of one.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.engine.factory import build_engine
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from folovllm.outputs import FinishReason, RequestOutput
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.builders.tiny_models import make_checkpoint
from support.processes.commanded_engine import CommandedEngine
from support.processes.parallel_engine import led_engines, play
from support.processes.rank_threads import on_ranks
from support.twins.decoder_logits import our_logits, prompt
from support.twins.gpu_twins import DEVICE

# Blocks of 4 tokens, most sequences, most tokens in a step.
SIZES = {"roomy": (300, 16, 512), "tight": (40, 8, 24)}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EngineConfig]:
    made = {}
    for model in ("qwen3_tied", "qwen3_bias_yarn"):
        folder = save_byte_tokenizer(make_checkpoint(model, tmp_path_factory.mktemp(model), seed=4))
        for name, (num_blocks, max_num_seqs, budget) in SIZES.items():
            made[f"{model} {name}"] = EngineConfig(
                ModelConfig(str(folder), dtype="float32", device="cpu"),
                CacheConfig(block_size=4, num_blocks=num_blocks),
                SchedulerConfig(max_num_seqs, budget),
            )
    return made


@pytest.fixture(scope="module")
def expected(configs: dict[str, EngineConfig]) -> dict[str, dict[str, RequestOutput]]:
    return {name: play(CommandedEngine(build_engine(config))) for name, config in configs.items()}


def test_the_comparison_has_all_that_it_should(
    expected: dict[str, dict[str, RequestOutput]],
) -> None:
    for name, results in expected.items():
        ends = {output.finish_reason for output in results["seeded"].outputs}
        assert ends == {FinishReason.LENGTH, FinishReason.ABORT}
        assert len(results["branches"].outputs) == len(results["scores"].outputs) == 3
        assert all(48 <= token <= 57 for token in results["digits"].outputs[0].token_ids[:4])
        assert results["prefix"].info is not None and results["again"].info is not None
        assert len(results["again"].info.prompt_logprobs) == 37
        assert all(len(output.logprobs) > 2 for output in results["scores"].outputs)
        outputs = [output for result in results.values() for output in result.outputs]
        preemptions = sum(output.metrics.preemptions for output in outputs if output.metrics)
        if name.endswith("tight"):
            assert preemptions > 0
        else:
            assert results["prefix"].info.cached_tokens == 32


def test_two_ranks_give_the_tokens_of_one(
    configs: dict[str, EngineConfig],
    expected: dict[str, dict[str, RequestOutput]],
    tmp_path: Path,
) -> None:
    with led_engines(tmp_path / "store", list(configs.values())) as engines:
        for name, engine in zip(configs, engines, strict=True):
            results = play(engine)
            assert results.keys() == expected[name].keys()
            for request, result in results.items():
                compare(result, expected[name][request])


def compare(found: RequestOutput, wanted: RequestOutput) -> None:
    for output, other in zip(found.outputs, wanted.outputs, strict=True):
        assert output.token_ids == other.token_ids
        assert output.finish_reason == other.finish_reason
        for position, logprob in zip(output.logprobs, other.logprobs, strict=True):
            assert position.token.rank == logprob.token.rank
            assert position.token.logprob == pytest.approx(logprob.token.logprob, abs=1e-4)
        assert output.usage == other.usage
    if found.info is None or wanted.info is None:
        assert found.info is wanted.info
        return
    assert found.info.cached_tokens == wanted.info.cached_tokens
    ours, theirs = (
        [position.token.logprob for position in info.prompt_logprobs[1:]]
        for info in (found.info, wanted.info)
    )
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="threads exchange tensors of the CPU alone")
def test_the_gpus_decoder_gives_the_logits_of_one_rank(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_one_layer", tmp_path, seed=4)
    config = DecoderConfig.from_folder(folder)

    def logits(parallel: TensorParallel) -> Tensor:
        """Of a prompt in chunks, the last of one token."""
        options = ModelOptions(torch.float32, DEVICE, deterministic=True, parallel=parallel)
        decoder = load_decoder(folder, config, options)
        return our_logits(GpuDecoder(decoder, 64), prompt(20, seed=1), [2, 17, 1])

    expected = logits(SINGLE)
    for found in on_ranks(2, logits):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

"""`folovllm parity` passes what equals transformers, and fails what does not."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from folovllm_client.cli.commands import commands
from folovllm_client.cli.quality import parity
from folovllm_client.cli.quality.parity_report import (
    Divergence,
    LogitError,
    ParityOptions,
    ParityReport,
    PromptParity,
)
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.builders.tiny_models import TINY_MODELS, make_checkpoint


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["parity", "--model", str(folder), *arguments])


def checkpoint(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    return save_byte_tokenizer(make_checkpoint(name, folder, seed=8, dtype=dtype))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_float32_passes_with_equal_greedy_tokens(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    result = run(folder, "--prompts", "7", "--steps", "20", "--device", "cpu", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["passed"]) == (0, True), report["verdict"]
    assert (report["model"], report["dtype"], report["device"]) == (str(folder), "float32", "cpu")
    assert 0 < report["error"]["total"] <= report["error"]["largest"] < 1e-4
    assert report["own_error"] is None
    prompts = {prompt["name"]: prompt for prompt in report["prompts"]}
    assert list(prompts)[:4] == ["text 1", "text 2", "text 3", "random 1"] and len(prompts) == 7
    assert prompts["random 3"]["prompt_tokens"] == 100
    assert all(not p["divergences"] and p["steps"] == 20 for p in report["prompts"])


def test_bfloat16_is_compared_with_transformers_own_error(tmp_path: Path) -> None:
    folder = checkpoint("qwen3_tied", tmp_path, torch.bfloat16)
    result = run(folder, "--dtype", "bfloat16", "--prompts", "6", "--steps", "12")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    header, rows = lines[2], lines[3:10]
    assert "transformers'" in header and len({len(line) for line in (header, *rows)}) == 1
    assert rows[-1].startswith("all ") and lines[-1].startswith("PASS  logit error ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_int8_is_held_to_its_own_limit(dtype: str, tmp_path: Path) -> None:
    folder = checkpoint("qwen3_tied", tmp_path, torch.bfloat16)
    options = ("--dtype", dtype, "--quantization", "int8", "--device", "cpu")
    result = run(folder, *options, "--prompts", "4", "--steps", "12")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == f"{folder}, int8, {dtype} on cpu, against transformers in float32"
    assert lines[-1].startswith("PASS  logit error ") and "limit 1.00e-01" in lines[-1]
    assert ("transformers'" in lines[2]) == (dtype == "bfloat16")


def test_broken_weights_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = parity.load_reference

    def load_broken(*arguments: Any) -> Any:
        model = load(*arguments)
        model.model.layers[1].mlp.down_proj.weight.data[3] *= -1
        return model

    monkeypatch.setattr(parity, "load_reference", load_broken)
    folder = checkpoint("qwen3_grouped", tmp_path)
    result = run(folder, "--prompts", "3", "--steps", "16")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("FAIL  largest logit error ")
    report = json.loads(run(folder, "--prompts", "3", "--steps", "16", "--json").stdout)
    divergences = [item for prompt in report["prompts"] for item in prompt["divergences"]]
    assert not report["passed"] and report["error"]["largest"] > 0.01
    assert divergences and all(item["margin"] > 0 and item["rank"] > 1 for item in divergences)


def test_more_steps_than_the_context_holds(tmp_path: Path) -> None:
    result = run(checkpoint("qwen3_grouped", tmp_path), "--steps", "512")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: 512 steps leave no room for a prompt")


def test_without_transformers_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = CliRunner().invoke(commands, ["parity"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: running a model here needs transformers; install with")
    assert result.stderr.count("\n") == 1


def report(
    error: float, own: float | None, *divergences: Divergence, quantization: str = "none"
) -> ParityReport:
    own_error = None if own is None else LogitError(own, own)
    prompt = PromptParity("a", 1, 8, LogitError(error, error), own_error, divergences)
    return ParityReport(ParityOptions("m", "float32", quantization, "cpu"), (prompt,))


def test_the_rules_of_the_verdict() -> None:
    tie, far, deep = Divergence(0, 0.125, 2), Divergence(0, 0.126, 2), Divergence(0, 0.1, 3)
    assert report(1e-4, None).passed and not report(1.1e-4, None).passed
    assert report(0.0, None, tie).passed
    assert not report(0.0, None, tie, far).passed and not report(0.0, None, deep).passed
    assert report(0.0124, 0.01, far).passed and not report(0.0126, 0.01).passed
    assert report(0.1, None, deep, quantization="int8").passed
    assert not report(0.11, 0.1, quantization="int8").passed
    assert not report(math.nan, None, quantization="int8").passed
    assert not report(math.nan, None).passed and not report(math.nan, 0.01).passed
    assert report(0.0, None, tie, far).verdict.endswith("1 divergences, 1 more at near ties")

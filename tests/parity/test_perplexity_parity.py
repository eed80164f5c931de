"""`folovllm perplexity` is what transformers' logits give, window by window."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from folovllm.model_files import DEMO_MODEL
from folovllm_client.cli.commands import commands

TEXT = "Once upon a time there was a small dog. It liked to run in the garden. " * 6


def reference(ids: list[int], window: int) -> tuple[int, float]:
    """How many tokens transformers predicts, and its perplexity of them."""
    model: Any = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    losses: list[float] = []
    for start in range(0, len(ids), window):
        chunk = torch.tensor([ids[start : start + window]])
        with torch.inference_mode():
            logprobs = model(chunk).logits[0, :-1].double().log_softmax(-1)
        losses += (-logprobs.gather(1, chunk[0, 1:, None])).flatten().tolist()
    return len(losses), math.exp(math.fsum(losses) / len(losses))


@pytest.mark.parametrize("window", [16, 4096])
def test_it_is_transformers_perplexity(window: int, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    ids = AutoTokenizer.from_pretrained(DEMO_MODEL).encode(TEXT)
    flags = ("--file", str(file), "--dtype", "float32", "--device", "cpu", "--window", str(window))
    result = CliRunner().invoke(commands, ["perplexity", *flags, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    num_tokens, perplexity = reference(ids, window)
    assert report["num_tokens"] == num_tokens and (window > len(ids)) == (window == 4096)
    assert report["perplexity"] == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_of_no_two_tokens_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(text)
    result = CliRunner().invoke(commands, ["perplexity", "--file", str(file)])
    assert result.exit_code == 1
    assert result.stderr.strip() == f"error: {file} holds no two tokens; give a longer text"

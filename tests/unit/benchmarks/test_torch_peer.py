"""The baseline in plain torch computes what our decoder does; else its speed would mean nothing."""

from pathlib import Path

import pytest
import torch

from benchmarks.peers.torch_peer import StaticDecoder
from support.builders.tiny_models import make_checkpoint
from support.twins.decoder_logits import CPU, load, our_logits, prompt


@pytest.mark.parametrize("name, batch", [("qwen3_tied", 1), ("qwen3_grouped", 3)])
def test_its_logits_are_those_of_the_decoder(name: str, batch: int, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=1)
    decoder = StaticDecoder(folder, torch.float32, CPU, batch, max_tokens=16)
    prompts = [prompt(12, seed) for seed in range(batch)]

    found = []
    for position, token_ids in enumerate(zip(*prompts, strict=True)):
        decoder.token_ids.copy_(torch.tensor(token_ids))
        decoder.position.fill_(position)
        found.append(decoder.step())

    model = load(folder, torch.float32)
    expected = torch.stack([our_logits(model, each, [len(each)]) for each in prompts], dim=1)
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(decoder.token_ids, expected[-1].argmax(-1))

"""A checkpoint as transformers runs it on a GPU: bf16, torch's own attention."""

import time
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from benchmarks.gpu.bench import Bench


def load(bench: Bench, attention: str = "sdpa") -> Any:
    """The model; no token ends a sequence, and no step pays for masking one."""
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(bench.folder), dtype=torch.bfloat16, attn_implementation=attention
    )
    model = model.to(bench.device).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def generate_seconds(
    model: Any, ids: Tensor, mask: Tensor, new_tokens: int, **options: Any
) -> float:
    """Seconds of a greedy `generate` to its end."""
    _synchronize(model.device)
    started = time.perf_counter()
    model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, **options)
    _synchronize(model.device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

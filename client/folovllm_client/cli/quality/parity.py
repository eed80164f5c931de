"""`folovllm parity`: our engine against transformers, on the same weights and the same prompts.

The engine continues all prompts greedily, as one batch. Each prompt with its continuation then goes
through our decoder and through transformers once, teacher-forced, so that every logit and every
pick is compared after the same tokens. Needs `folovllm[all]`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine_service.config import ModelConfig
from engine_service.core.outputs import ScheduledSequence
from engine_service.models.causal_model import CausalModel
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, WEIGHT_PATTERNS, resolve_model
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm_client.cli.quality.parity_report import (
    Divergence,
    LogitError,
    ParityOptions,
    ParityReport,
    PromptParity,
)
from folovllm_client.llm.llm import LLM
from folovllm_client.llm.model_loader import get_model_and_tokenizer

_TEXTS = (
    "Once upon a time, in a town by the sea,",
    "def fibonacci(n: int) -> int:\n    ",
    "Die Hauptstadt von Frankreich ist",
)
# Around the sizes of blocks and tiles, and far from them.
_RANDOM_LENGTHS = (1, 16, 100, 33, 7, 200, 64, 129, 2)
_BLOCK_SIZE = 16


def check_parity(options: ParityOptions) -> ParityReport:
    """Runs both sides. Raises ConfigError if a model is missing."""
    continued = _continue_prompts(options)
    model, _ = get_model_and_tokenizer(
        ModelConfig(options.model, options.dtype, options.device, quantization=options.quantization)
    )
    folder = resolve_model(options.model, (*CONFIG_PATTERNS, *WEIGHT_PATTERNS))
    reference = load_reference(folder, torch.float32, model.device)
    rounded = model.dtype is not torch.float32
    own = load_reference(folder, model.dtype, model.device) if rounded else None
    resolved = replace(options, model=options.model or folder.name, device=str(model.device))
    prompts = (_compare(*item, model, reference, own) for item in continued.items())
    return ParityReport(resolved, tuple(prompts))


def load_reference(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The model as transformers runs it, with its eager attention."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    return model.to(device).eval()


def _continue_prompts(options: ParityOptions) -> dict[str, RequestOutput]:
    """The prompts by name, each with `steps` tokens that our engine picks; all in one batch."""
    max_length = max(_RANDOM_LENGTHS) + options.steps
    llm = LLM(
        options.model,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
        block_size=_BLOCK_SIZE,
        num_gpu_blocks_override=options.prompts * -(-max_length // _BLOCK_SIZE),
    )
    room = llm.model_info.max_model_len - options.steps
    if room < 1:
        raise ConfigError(
            f"{options.steps} steps leave no room for a prompt in the model's context of "
            f"{llm.model_info.max_model_len} tokens; take fewer"
        )
    prompts = _prompts(llm, options.prompts, min(room, max(_RANDOM_LENGTHS)))
    params = SamplingParams(temperature=0.0, max_tokens=options.steps, ignore_eos=True)
    outputs = llm.generate([*prompts.values()], params)
    return dict(zip(prompts, outputs, strict=True))


def _prompts(llm: LLM, count: int, max_length: int) -> dict[str, list[int]]:
    """Token ids of `count` prompts by name, each of at most `max_length`; always the same ones."""
    generator = torch.Generator().manual_seed(0)
    texts = _TEXTS[: count // 2]
    prompts = {
        f"text {number}": llm.get_tokenizer().encode(text)[:max_length]
        for number, text in enumerate(texts, start=1)
    }
    for number in range(count - len(texts)):
        length = min(max_length, _RANDOM_LENGTHS[number % len(_RANDOM_LENGTHS)])
        drawn = torch.randint(llm.model_info.vocab_size, (length,), generator=generator)
        prompts[f"random {number + 1}"] = drawn.tolist()
    return prompts


def _compare(
    name: str, output: RequestOutput, model: CausalModel, reference: Any, own: Any
) -> PromptParity:
    prompt, token_ids = output.prompt_token_ids, output.outputs[0].token_ids
    # Nothing was picked after the last token.
    sequence = [*prompt, *token_ids[:-1]]
    expected = _reference_logits(reference, sequence)
    found = _our_logits(model, [prompt, token_ids[:-1]])
    return PromptParity(
        name=name,
        prompt_tokens=len(prompt),
        steps=len(token_ids),
        error=_logit_error(found, expected),
        own_error=None if own is None else _logit_error(_reference_logits(own, sequence), expected),
        divergences=_divergences(token_ids, expected[len(prompt) - 1 :]),
    )


def _reference_logits(model: Any, sequence: Sequence[int]) -> Tensor:
    """Logits at every position, [tokens, vocab_size] in float32."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([sequence], device=model.device)).logits[0]
    return logits.float()


def _our_logits(model: CausalModel, chunks: Sequence[Sequence[int]]) -> Tensor:
    """The same from our decoder, chunk after chunk through the KV cache."""
    num_blocks = -(-sum(map(len, chunks)) // _BLOCK_SIZE)
    logits, computed = [], 0
    with torch.inference_mode():
        caches = allocate_kv_caches(model, num_blocks, _BLOCK_SIZE)
        for chunk in filter(None, chunks):
            part = ScheduledSequence(
                seq_id=0,
                token_ids=chunk,
                num_computed_tokens=computed,
                block_table=range(num_blocks),
                sampling_params=SamplingParams(),
                seed=0,
                sample_indexes=(),
            )
            batch = build_input_batch([part], _BLOCK_SIZE, model.device)
            hidden = model(batch.input_ids, batch.positions, caches, batch.metadata)
            logits.append(model.compute_logits(hidden).float())
            computed += len(chunk)
    return torch.cat(logits)


def _logit_error(found: Tensor, expected: Tensor) -> LogitError:
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    total = (found - expected).norm() / expected.norm()
    return LogitError(float(total), float(errors.max()))


def _divergences(token_ids: Sequence[int], expected: Tensor) -> tuple[Divergence, ...]:
    """Where the reference's logits, [steps, vocab_size], have another maximum."""
    divergences = []
    for step, (token_id, logits) in enumerate(zip(token_ids, expected, strict=True)):
        margin = float(logits.max() - logits[token_id])
        if margin > 0:
            rank = 1 + int((logits > logits[token_id]).sum())
            divergences.append(Divergence(step, margin, rank))
    return tuple(divergences)

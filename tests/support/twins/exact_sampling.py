"""The distribution that sampling parameters define, written down one token at a time in float64."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats

from folovllm.sampling_params import SamplingParams


def exact_distribution(
    logits: torch.Tensor,
    params: SamplingParams,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
) -> np.ndarray:
    """Probabilities [V] of what follows prompt and output; no two processed logits are equal."""
    values = processed_logits(logits.double().numpy().copy(), params, prompt, output)
    values /= params.temperature
    probabilities = np.exp(values - values.max())
    probabilities[probabilities < params.min_p] = 0.0
    order = np.argsort(-probabilities)
    if params.top_k > 0:
        probabilities[order[params.top_k :]] = 0.0
    total, mass = probabilities.sum(), 0.0
    for token_id in order:
        if mass >= params.top_p * total:
            probabilities[token_id] = 0.0
        mass += probabilities[token_id]
    return np.asarray(probabilities / probabilities.sum())


def p_value(drawn: np.ndarray, expected: np.ndarray) -> float:
    """Of the chi-square test; 0 where something impossible was drawn."""
    counts = np.bincount(drawn, minlength=len(expected))
    possible = expected > 0
    if counts[~possible].any():
        return 0.0
    return float(stats.chisquare(counts[possible], expected[possible] * len(drawn)).pvalue)


def processed_logits(
    values: np.ndarray, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> np.ndarray:
    """Logits [V] after masks, biases and penalties; changes `values`."""
    if params.allowed_token_ids:
        values[[i for i in range(len(values)) if i not in params.allowed_token_ids]] = -np.inf
    for *begun, last in params.bad_words_token_ids:
        if len(begun) <= len(output) and list(output[len(output) - len(begun) :]) == begun:
            values[last] = -np.inf
    for token_id, bias in params.logit_bias:
        values[token_id] += bias
    for token_id in {*prompt, *output}:
        penalty = params.repetition_penalty
        values[token_id] *= 1 / penalty if values[token_id] > 0 else penalty
    for token_id, count in Counter(output).items():
        values[token_id] -= count * params.frequency_penalty + params.presence_penalty
    return values

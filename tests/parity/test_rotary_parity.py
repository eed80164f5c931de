"""Scaled rotary frequencies equal transformers' for every form that config.json may take."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine_service.layers.rope_config import RopeConfig
from engine_service.layers.rotary import inverse_frequencies

_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 3.0},
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
        _YARN,
        {**_YARN, "factor": 1.0},
        {**_YARN, "attention_factor": 1.7},
        {**_YARN, "beta_fast": 24.0, "beta_slow": 2.0},
        {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
        {**_YARN, "truncate": False},
        {**_YARN, "rope_theta": 500000.0},
    ],
)
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.filterwarnings("ignore")
def test_inverse_frequencies(parameters: dict[str, Any], head_dim: int) -> None:
    parameters = {"rope_theta": 10000.0, **parameters}
    config = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters=dict(parameters),
    )
    expected, expected_scale = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    rope = RopeConfig.from_json({"max_position_embeddings": 4096, "rope_parameters": parameters})
    frequencies, scale = inverse_frequencies(rope, head_dim)
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert scale == pytest.approx(expected_scale)

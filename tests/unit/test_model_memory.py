"""The memory that docs/models.md says published models need."""

import pytest

from benchmarks.harness.model_shape import ModelShape
from folovllm.model_files import DEMO_MODEL
from tools.model_memory import BEGIN, END, MODELS, PAGE, table

PUBLISHED = {
    "Qwen3-0.6B": 0.44,
    "Qwen3-1.7B": 1.4,
    "Qwen3-4B": 3.6,
    "Qwen3-8B": 6.95,
    "Qwen3-14B": 13.2,
    "Qwen3-32B": 31.2,
    "Qwen2.5-0.5B-Instruct": 0.36,
    "Qwen2.5-1.5B-Instruct": 1.31,
    "Qwen2.5-3B-Instruct": 2.77,
    "Qwen2.5-7B-Instruct": 6.53,
    "Qwen2.5-14B-Instruct": 13.1,
    "Qwen2.5-32B-Instruct": 31.0,
}
"""Parameters without the embedding and the output layer, in billions, as the models' pages say."""
PUBLISHED_TOTALS = {
    "Llama-3.2-1B-Instruct": 1.23,
    "Llama-3.2-3B-Instruct": 3.21,
    "Llama-3.1-8B-Instruct": 8.03,
    "Llama-3.3-70B-Instruct": 70.6,
    "SmolLM2-135M-Instruct": 0.135,
    "SmolLM2-360M-Instruct": 0.362,
    "SmolLM2-1.7B-Instruct": 1.71,
}


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text().split(BEGIN)[1].split(END)[0].strip() == table()


@pytest.mark.parametrize("name", MODELS)
def test_the_shapes_have_the_parameters_that_are_published(name: str) -> None:
    model = MODELS[name]
    total = model.num_parameters / 1e9
    if name in PUBLISHED_TOTALS:
        assert total == pytest.approx(PUBLISHED_TOTALS[name], rel=0.01)
    else:
        embeddings = (1 if model.tied else 2) * model.hidden_size * model.vocab_size / 1e9
        assert total - embeddings == pytest.approx(PUBLISHED[name], rel=0.02)


def test_the_arithmetic_is_that_of_real_files() -> None:
    weights = (DEMO_MODEL / "model.safetensors").stat().st_size
    assert ModelShape.from_folder(DEMO_MODEL).weight_bytes() == pytest.approx(weights, rel=0.02)

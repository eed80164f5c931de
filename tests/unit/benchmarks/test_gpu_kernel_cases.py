"""The kernels are called by the benchmark as they are declared."""

import pytest
import torch

from benchmarks.gpu.measures.kernels import KernelCase, kernel_cases
from benchmarks.gpu.plan import smoke
from benchmarks.harness.model_shape import ModelShape

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = ModelShape(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=96,
)


@pytest.mark.parametrize("case", kernel_cases(SHAPE, smoke()), ids=lambda case: case.name)
def test_a_case_runs(case: KernelCase) -> None:
    case.make(DEVICE)()
    if case.make_beside is not None:
        case.make_beside(DEVICE)()

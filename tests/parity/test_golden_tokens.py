"""Tokens that each numerics version stands for.

If a change fails here on purpose, raise NUMERICS_VERSION and write down the new tokens: engines of
the old and the new code must not continue each other's streams.
"""

import pytest

from engine_service.engine.numerics import NUMERICS_VERSION
from engine_service.kernels.cpu.library import find_or_build
from folovllm import LLM, SamplingParams

PROMPT = list(range(100, 180))
PARAMS = {
    "greedy": SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True),
    "drawn": SamplingParams(temperature=1.0, seed=7, n=2, max_tokens=12, ignore_eos=True),
    "filtered": SamplingParams(
        temperature=1.3, top_p=0.9, top_k=50, min_p=0.01, seed=11, max_tokens=12, ignore_eos=True
    ),
    "penalised": SamplingParams(
        temperature=0.7,
        seed=2**63 + 5,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        repetition_penalty=1.2,
        max_tokens=12,
        ignore_eos=True,
    ),
}
GOLDEN_VERSION = 1
# By quantization and the name of the parameters: the ids of each continuation.
GOLDEN = {
    "none": {
        "greedy": [[373, 876, 773, 302, 773, 302, 773, 302, 773, 302, 773, 302]],
        "drawn": [
            [373, 773, 1453, 773, 1300, 13, 30, 525, 1688, 443, 1362, 773],
            [773, 302, 1362, 899, 773, 1300, 1300, 847, 1661, 373, 1563, 264],
        ],
        "filtered": [[1573, 773, 876, 115, 773, 746, 773, 539, 1951, 773, 302, 773]],
        "penalised": [[773, 11, 302, 1362, 1761, 1860, 455, 37, 373, 1963, 773, 1927]],
    },
    "int8": {
        "greedy": [[373, 876, 773, 302, 773, 302, 773, 302, 773, 302, 773, 302]],
        "drawn": [
            [373, 773, 1446, 435, 972, 914, 773, 373, 1563, 749, 1635, 773],
            [773, 302, 1362, 749, 899, 1362, 1573, 1362, 1685, 373, 1519, 773],
        ],
        "filtered": [[1573, 773, 951, 302, 373, 951, 773, 505, 1563, 749, 773, 505]],
        "penalised": [[773, 11, 302, 1362, 1711, 1860, 560, 302, 373, 1931, 914, 1951]],
    },
}


@pytest.mark.parametrize("quantization", GOLDEN)
def test_tokens_are_those_of_the_numerics_version(quantization: str) -> None:
    if find_or_build() is None:
        pytest.skip("this processor has no kernels of ours")
    llm = LLM(device="cpu", dtype="bfloat16", quantization=quantization)
    found = {}
    for name, params in PARAMS.items():
        (output,) = llm.generate([{"prompt_token_ids": PROMPT}], params)
        found[name] = [list(one.token_ids) for one in output.outputs]
    assert (NUMERICS_VERSION, found) == (GOLDEN_VERSION, GOLDEN[quantization])

"""The workload of nano-vllm's benchmark (GeeeekExplorer/nano-vllm, bench.py).

256 requests at once, prompts and outputs of 100 to 1024 tokens each, drawn as it draws them.
"""

import random

from benchmarks.harness.open_loop import Arrival

TEMPERATURE = 0.6
_MAX_TOKEN_ID = 10000


def requests(
    count: int, minimum: int = 100, maximum: int = 1024, vocab_size: int = _MAX_TOKEN_ID + 1
) -> list[Arrival]:
    """Of 256 the outputs have 133,966 tokens together. All prompts are drawn before all lengths."""
    draw = random.Random(0).randint
    prompts = [
        [draw(0, _MAX_TOKEN_ID) for _ in range(draw(minimum, maximum))] for _ in range(count)
    ]
    return [
        Arrival(0.0, [token_id % vocab_size for token_id in prompt], draw(minimum, maximum))
        for prompt in prompts
    ]

"""Answers a batch of prompts in this process, without servers.

    python examples/offline_generation.py [MODEL]

MODEL is a folder or a hub id; without it, the small embedded model answers.
"""

import sys

from folovllm import LLM, ModelConfig, Request, SamplingParams, get_model_and_tokenizer


def walk_a_request(model: str | None) -> None:
    """The parts by hand: configure, load, make a request, look at its sequences."""
    config = ModelConfig(model, dtype="float32")
    decoder, tokenizer = get_model_and_tokenizer(config)
    params = SamplingParams(n=2, temperature=0.8)
    request = Request("example", tokenizer.encode("Once upon a time"), params)
    print(f"{type(decoder).__name__} with {decoder.config.num_weights:,} weights")
    for seq in request.get_seqs():
        print(f"  sequence {seq.index}: {seq.status.name}, tokens {seq.token_ids}")


def generate(model: str | None) -> None:
    """The whole: prompts in, texts out."""
    llm = LLM(model=model, dtype="float32")
    params = SamplingParams(temperature=0.0, max_tokens=24)
    texts = ["Once upon a time", "The capital of France is"]
    outputs = llm.generate(texts, params) + llm.generate({"prompt_token_ids": [1, 2, 3]}, params)
    for output in outputs:
        completion = output.outputs[0]
        print(f"{output.prompt!r} -> {completion.text!r} ({completion.finish_reason})")


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else None
    walk_a_request(chosen)
    generate(chosen)

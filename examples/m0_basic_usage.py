"""The parts by hand: configure a model, load it, make a request, look at its sequences.

    python examples/m0_basic_usage.py [MODEL]

MODEL is a folder or a hub id; without it, the small embedded model is loaded.
"""

import sys

from folovllm import ModelConfig, Request, SamplingParams, get_model_and_tokenizer

PROMPT = "你好，请介绍一下自己"


def main(model_id: str | None) -> None:
    config = ModelConfig(model=model_id, dtype="float16", trust_remote_code=True)
    model, tokenizer = get_model_and_tokenizer(config, device="auto")
    print(f"{type(model).__name__} on {model.device} in {model.dtype}")

    sampling_params = SamplingParams(temperature=0.8, top_p=0.9, max_tokens=100)
    request = Request(
        request_id="req-001",
        prompt=PROMPT,
        prompt_token_ids=tokenizer.encode(PROMPT),
        sampling_params=sampling_params,
    )
    for seq in request.get_seqs():
        print(f"Sequence {seq.seq_id}: {seq.get_len()} tokens")
    print(tokenizer.decode(request.prompt_token_ids))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)

"""A script for vLLM but for its imports; the suite runs it, and `make release` from the wheel."""

from typing import Any

from folovllm import (
    LLM,
    EngineArgs,
    LLMEngine,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
    TextPrompt,
    TokensPrompt,
)

llm = LLM(
    model=None,  # vLLM has no model of its own
    dtype="half",
    max_model_len=1024,
    gpu_memory_utilization=0.3,
    max_num_seqs=8,
    max_num_batched_tokens=512,
    enable_prefix_caching=True,
    seed=7,
    quantization=None,
)
tokenizer = llm.get_tokenizer()
greedy = SamplingParams(temperature=0.0, max_tokens=16, logprobs=1)
settings: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 16, "stop": ["."]}
sampled = SamplingParams(n=2, seed=1, **settings)
prompts = [
    TextPrompt(prompt="Once upon a time"),
    TokensPrompt(prompt_token_ids=tokenizer.encode("The capital of France is")),
]
for request in llm.generate(prompts, [sampled, greedy], use_tqdm=False, priority=[1, 0]):
    print(request.request_id, request.prompt, len(request.prompt_token_ids), request.finished)
    for choice in request.outputs:
        print(choice.index, repr(choice.text), choice.finish_reason, choice.stop_reason)
    if choice.logprobs:
        first = choice.logprobs[0][choice.token_ids[0]]
        print(first.logprob, first.rank, first.decoded_token, choice.cumulative_logprob)

messages = [{"role": "user", "content": "What is 47 + 38?"}]
digits = SamplingParams(max_tokens=8, structured_outputs=StructuredOutputsParams(regex="[0-9]+"))
options: dict[str, Any] = {"enable_thinking": False}
(answer,) = llm.chat(messages, digits, use_tqdm=False, chat_template_kwargs=options)
assert answer.outputs[0].finished() and answer.outputs[0].text.isdigit()
text = tokenizer.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True, **options
)
assert text == answer.prompt and llm.reset_prefix_cache()

engine = LLMEngine.from_engine_args(EngineArgs(max_num_seqs=4, max_model_len=512))
deltas = SamplingParams(temperature=0.0, max_tokens=8, output_kind=RequestOutputKind.DELTA)
engine.add_request("story", "Once upon a time", deltas)
while engine.has_unfinished_requests():
    for step in engine.step():
        print(step.outputs[0].text, end="\n" if step.finished else "", flush=True)

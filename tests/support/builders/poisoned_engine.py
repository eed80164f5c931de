"""A model of which one token is NaN, and requests beside and after those that have it."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine_service.core.request import Branch, Request
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.score_requests import score_request
from folovllm.errors import FolovError, RequestFailedError
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import VOCAB_SIZE, make_checkpoint
from support.integrity import check_integrity

POISON = VOCAB_SIZE - 1
GREEDY = SamplingParams(
    temperature=0.0, max_tokens=12, ignore_eos=True, logit_bias=((POISON, -100.0),)
)
RANDOM = GREEDY.clone(temperature=1.0, top_p=0.9, seed=5)


def make_poisoned_checkpoint(
    name: str, folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Path, Path]:
    """A checkpoint, and the same with NaN as the token's embedding."""
    clean, poisoned = (make_checkpoint(name, folder / each, dtype=dtype) for each in ("a", "b"))
    path = poisoned / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][POISON] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    return clean, poisoned


def prompt(name: str, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(len(name))
    return torch.randint(2, POISON, (length,), generator=generator).tolist()


HEALTHY = {
    "greedy": GREEDY,
    "seeded n": RANDOM.clone(n=3),
    "with logprobs": RANDOM.clone(logprobs=2, prompt_logprobs=1),
    "with a penalty": GREEDY.clone(frequency_penalty=0.5),
    "later": GREEDY,
}
FAILING = {
    "p": GREEDY,
    "p n": RANDOM.clone(n=3),
    "p logprobs": GREEDY.clone(logprobs=2),
    "p prompt logprobs": GREEDY.clone(prompt_logprobs=0),
    "p penalty": RANDOM.clone(presence_penalty=0.5),
}


def neighbours(
    engine: LLMEngine, poison: bool
) -> tuple[dict[str, RequestOutput], dict[str, FolovError]]:
    """What healthy requests get, if asked beside others that fail, and those errors."""
    results: dict[str, RequestOutput] = {}
    failures: dict[str, FolovError] = {}
    arrivals = [
        pair
        for healthy, failing in zip(HEALTHY.items(), FAILING.items(), strict=True)
        for pair in ((healthy, failing) if poison else (healthy,))
    ]
    if poison:
        scored = [1, 2, POISON, 3]
        request = score_request(prompt("scores", 20), [[5, 6], scored, [7]], engine.info)
        engine.add_scores("p scores", request)
    while arrivals or engine.has_unfinished_requests():
        for name, params in arrivals[: 2 if poison else 1]:
            tokens = prompt(name, 20 + len(name))
            if name in FAILING:
                tokens[11] = POISON
            engine.add_request(Request(name, tokens, params))
        del arrivals[: 2 if poison else 1]
        for output in engine.step():
            results.setdefault(output.request_id, RequestOutput()).add(output)
        failures |= {failure.name: failure.error for failure in engine.drain_failures()}
        check_integrity(engine.scheduler)
    assert engine.load().num_free_kv_blocks == engine.info.num_kv_blocks
    return results, failures


def check_neighbours(clean: LLMEngine, poisoned: LLMEngine) -> None:
    """That those who fail say so, and that all others get what they get without them."""
    expected, _ = neighbours(clean, poison=False)
    for _ in range(2):  # the second time in blocks that were poisoned
        found, failures = neighbours(poisoned, poison=True)
        assert failures.keys() == {*FAILING, "p scores"}
        for error in failures.values():
            assert isinstance(error, RequestFailedError) and "is not finite" in str(error)
        for name in HEALTHY:
            assert _tokens(found[name]) == _tokens(expected[name]), name


def check_fork(engine: LLMEngine) -> None:
    """That a branch that only its parameters poison ends its fork, and not the parent."""
    engine.add_request(Request("parent", prompt("parent", 20), GREEDY))
    engine.step()
    forced = GREEDY.clone(allowed_token_ids=[POISON], logit_bias=())
    engine.fork_request("parent", 0, "fork", [Branch(GREEDY), Branch(forced)])
    results: dict[str, RequestOutput] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            results.setdefault(output.request_id, RequestOutput()).add(output)
        assert {failure.name for failure in engine.drain_failures()} <= {"fork"}
    assert results["parent"].outputs[0].finish_reason == "length"
    assert not any(output.finish_reason for output in results["fork"].outputs)


def _tokens(result: RequestOutput) -> list[list[int]]:
    return [output.token_ids for output in result.outputs]

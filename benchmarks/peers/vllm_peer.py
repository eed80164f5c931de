"""vLLM's CPU backend, its engine stepped in this process."""

import os

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.peers.peer import PeerConfig


class VLLM:
    """An engine of vLLM."""

    def __init__(self, config: PeerConfig) -> None:
        if config.weight_format != "bf16":
            raise ValueError("vLLM is measured in bf16 alone")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{config.threads - 1}"
        import vllm

        self.version = vllm.__version__
        llm = vllm.LLM(
            model=config.model,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            enable_prefix_caching=False,
        )
        self._engine = llm.llm_engine

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        clock = BatchClock(len(prompts))
        for index, prompt in enumerate(prompts):
            self._engine.add_request(str(index), {"prompt_token_ids": prompt}, params)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                clock.add(int(output.request_id), len(output.outputs[0].token_ids))
        return clock

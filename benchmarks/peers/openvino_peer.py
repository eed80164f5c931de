"""OpenVINO GenAI's continuous batching, its pipeline stepped in this process.

The checkpoint is exported once by optimum-intel: bf16 as fp16, which the processor computes in bf16
where it has that; int8 a channel; int4 symmetric in groups of 32.
"""

import subprocess
import sys
from pathlib import Path

import openvino
import openvino_genai
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.peers.peer import PeerConfig

_EXPORT_OPTIONS = {
    "bf16": ("--weight-format", "fp16"),
    "int8": ("--weight-format", "int8"),
    "int4": ("--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"),
}
_MAX_NUM_BATCHED_TOKENS = 2048  # as our engine's default


class OpenVINO:
    """A pipeline of OpenVINO GenAI."""

    version = openvino_genai.__version__

    def __init__(self, config: PeerConfig) -> None:
        scheduler = SchedulerConfig()
        scheduler.max_num_batched_tokens = _MAX_NUM_BATCHED_TOKENS
        scheduler.max_num_seqs = config.max_num_seqs
        scheduler.cache_size = 2  # GiB
        scheduler.enable_prefix_caching = False
        self._pipeline = ContinuousBatchingPipeline(
            _exported(config), scheduler, "CPU", {"INFERENCE_NUM_THREADS": config.threads}
        )

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        params = GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        clock = BatchClock(len(prompts))
        handles = [
            self._pipeline.add_request(index, openvino.Tensor([prompt]), params)
            for index, prompt in enumerate(prompts)
        ]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for index, handle in enumerate(handles):
                if handle.can_read():
                    clock.add(index, sum(len(out.generated_ids) for out in handle.read().values()))
        return clock


def _exported(config: PeerConfig) -> str:
    folder = Path(config.cache) / f"openvino-{config.weight_format}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.part")
        subprocess.run(
            [
                *(sys.executable, "-m", "optimum.commands.optimum_cli"),
                *("export", "openvino", "--model", config.model),
                *("--task", "text-generation-with-past"),
                *(*_EXPORT_OPTIONS[config.weight_format], str(unfinished)),
            ],
            check=True,
        )
        unfinished.replace(folder)
    return str(folder)

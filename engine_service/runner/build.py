"""From a configuration and a model's folder to a runner that is ready to step."""

import logging
import os
import platform
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch

from engine_service.config import EngineConfig
from engine_service.core.outputs import ModelRunner
from engine_service.device import free_memory, resolve_device, resolve_dtype
from engine_service.host_memory import FreeMemory, free_beside
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.memory_claims import HeldClaim, planning
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from engine_service.runner.kv_cache import bytes_per_block, describe_free, num_blocks_that_fit
from engine_service.runner.model_runner import TorchModelRunner
from folovllm.errors import ConfigError
from folovllm.installation.cache_folder import cache_folder

log = logging.getLogger(__name__)

# From this number of weights on, several threads gain more than synchronizing at every operator
# costs. If another process has one of the cores, a small model's threads wait for it each time.
_LARGE_MODEL = 50_000_000


@dataclass(frozen=True, slots=True)
class BuiltRunner:
    """A runner, and what was determined while it was built.

    The KV pool holds `num_blocks` blocks of `block_size` tokens, with ids from 0; so does that of
    every other rank. `decoder_config` is that of the whole model.
    """

    runner: ModelRunner
    kernels: str
    """Whose kernels compute the decoder: cpu, gpu, or torch, which is torch alone."""
    decoder_config: DecoderConfig
    dtype: torch.dtype
    device: torch.device
    num_blocks: int
    block_size: int
    max_model_len: int


def build_runner(
    config: EngineConfig, folder: Path, show_progress: bool, parallel: TensorParallel = SINGLE
) -> BuiltRunner:
    """Loads the model of a folder, sizes and allocates its KV pool. Raises ConfigError.

    On a CPU a small model is computed by the calling thread alone, from here on. On a GPU the
    kernels are tuned, the first time, and the graphs of decode steps captured. Several ranks do
    this at the same time, each for its part of the model.
    """
    decoder_config = DecoderConfig.from_folder(folder)
    max_model_len = _resolve_max_model_len(config.model.max_model_len, decoder_config)
    device = resolve_device(config.model.device)
    dtype = resolve_dtype(config.model.dtype, decoder_config.dtype, device)
    if device.type == "cpu" and decoder_config.num_weights < _LARGE_MODEL:
        torch.set_num_threads(1)
    block_size = config.cache.block_size_on(device.type)
    options = ModelOptions(
        dtype=dtype,
        device=device,
        deterministic=config.model.deterministic,
        quantization=config.model.quantization,
        cache_dtype=config.cache.dtype,
        block_size=block_size,
        max_model_len=max_model_len,
        parallel=parallel,
    )
    model = load_model(folder, decoder_config, options, show_progress)
    if model.kernels == "gpu":
        # Its libraries are not there without a GPU.
        from engine_service.runner.gpu.build import build_gpu_runner

        runner: ModelRunner
        runner, num_blocks = build_gpu_runner(config, model, options, show_progress)
    else:
        runner, num_blocks = _build_torch_runner(config, model, options, max_model_len)
    return BuiltRunner(
        runner=runner,
        kernels=model.kernels,
        decoder_config=decoder_config,
        dtype=dtype,
        device=device,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
    )


def _build_torch_runner(
    config: EngineConfig, model: CausalModel, options: ModelOptions, max_model_len: int
) -> tuple[TorchModelRunner, int]:
    """The runner, and its number of blocks: what is left beside other engines on the host."""
    block_bytes = bytes_per_block(model.config, options.block_size, model.dtype)

    def fit(free: FreeMemory) -> int:
        return num_blocks_that_fit(
            config, options, max_model_len=max_model_len, block_bytes=block_bytes, free=free
        )

    claim: HeldClaim | None = None
    if options.device.type == "cpu":
        owner = options.parallel.all_reduce_min(os.getpid())
        with planning(cache_folder() / "memory" / platform.node(), owner) as plan:
            # Ranks that compute on the CPU share its memory.
            free = free_beside(plan.others).shared_by(options.parallel.size)
            fitting = fit(free)
            claim = plan.claim(fitting * block_bytes)
        if fitting < fit(free._replace(claimed=0)):
            log.info("the KV cache is smaller: %s", describe_free(free, options.device))
    else:
        fitting = fit(FreeMemory(free_memory(options.device)))
    num_blocks = options.parallel.all_reduce_min(fitting)
    runner = TorchModelRunner(model, num_blocks, options.block_size)
    if claim is not None:
        weakref.finalize(runner, claim.release)
    return runner, num_blocks


def _resolve_max_model_len(configured: int | None, decoder_config: DecoderConfig) -> int:
    """The context length to serve: as configured, within the model's own, which is the default."""
    limit = decoder_config.max_position_embeddings
    if configured is not None and configured > limit:
        raise ConfigError(
            f"max_model_len {configured} is over the model's own limit of {limit}; lower it"
        )
    return configured or limit

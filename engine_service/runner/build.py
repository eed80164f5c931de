"""From a configuration and a model's folder to a runner that is ready to step."""

from dataclasses import dataclass
from pathlib import Path

import torch

from engine_service.config import EngineConfig
from engine_service.core.outputs import ModelRunner
from engine_service.device import free_memory, resolve_device, resolve_dtype
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from engine_service.runner.kv_cache import bytes_per_block, num_blocks_that_fit
from engine_service.runner.model_runner import TorchModelRunner
from folovllm.errors import ConfigError

# Weights from which on several threads help more than their meeting at every operator costs. Where
# another process has one of the cores, each such meeting of a small model's threads waits for it.
_LARGE_MODEL = 50_000_000


@dataclass(frozen=True, slots=True)
class BuiltRunner:
    """A runner, and what was found out while it was built.

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
    kernels are tuned, the first time, and the graphs of decode steps captured. Of several ranks,
    each does this for its part of the model, at the same time.
    """
    decoder_config = DecoderConfig.from_folder(folder)
    max_model_len = resolve_max_model_len(config.model.max_model_len, decoder_config)
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
        runner, num_blocks = build_gpu_runner(
            config, model, block_size, max_model_len, show_progress, parallel
        )
    else:
        num_blocks = _num_blocks(config, model, block_size, max_model_len, parallel)
        runner = TorchModelRunner(model, num_blocks, block_size)
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


def _num_blocks(
    config: EngineConfig,
    model: CausalModel,
    block_size: int,
    max_model_len: int,
    parallel: TensorParallel,
) -> int:
    # Ranks that compute on the CPU share its memory.
    num_sharing = parallel.size if model.device.type == "cpu" else 1
    num_blocks = num_blocks_that_fit(
        config.cache,
        block_size=block_size,
        max_num_seqs=config.scheduler.step_size_on(model.device.type).max_num_seqs,
        max_model_len=max_model_len,
        block_bytes=bytes_per_block(model.config, block_size, model.dtype),
        free_bytes=free_memory(model.device) // num_sharing,
        device=model.device,
    )
    return parallel.all_reduce_min(num_blocks)


def resolve_max_model_len(configured: int | None, decoder_config: DecoderConfig) -> int:
    """The context length to serve: as configured, within the model's own, which is the default."""
    longest = decoder_config.max_position_embeddings
    if configured is not None and configured > longest:
        raise ConfigError(
            f"max_model_len {configured} is over the model's own limit of {longest}; lower it"
        )
    return configured or longest

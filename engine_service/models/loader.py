"""From a folder's checkpoint to a model with its weights, the fastest that the device has.

On a CPU that computes bfloat16 that is the CpuDecoder, which is deterministic as it is, on a GPU
the GpuDecoder, elsewhere, and on a CPU for a rank of several, the Decoder in plain torch. On a CPU
rows of the embedding are read from its file as they are needed: a tied one is not held twice.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm

from engine_service.kernels.cpu import library as cpu_library
from engine_service.kernels.gpu import support as gpu_support
from engine_service.layers.attention.choice import choose_backend
from engine_service.layers.attention.deterministic_attention import DeterministicAttention
from engine_service.layers.linear.packing import choose_packing, head_quantization
from engine_service.layers.linear.row_tiles import TILED_OPERATORS
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models.causal_model import CausalModel
from engine_service.models.cpu_decoder import CpuDecoder, fits_kernels
from engine_service.models.cpu_weights import CpuWeights, projections
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.qwen3 import Decoder
from engine_service.models.sharding import shard_config, shard_tensor
from engine_service.models.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

_EMBEDDING = "model.embed_tokens.weight"
_Item = TypeVar("_Item")


def load_model(
    folder: Path,
    config: DecoderConfig,
    dtype: torch.dtype,
    device: torch.device,
    show_progress: bool,
    deterministic: bool = False,
    quantization: str = "none",
    block_size: int = 16,
    max_model_len: int | None = None,
    parallel: TensorParallel = SINGLE,
) -> CausalModel:
    """A model with the weights of a folder, for a KV cache of blocks of `block_size` tokens.

    Its positions are those up to `max_model_len`, or all that the config has. Weights are quantized
    as ModelConfig says; a deterministic model's are not. `config` is that of the whole model, of
    which a rank of several gets its part. Raises ConfigError, naming the file or the tensor, where
    weights are missing, broken or do not fit the config, and where the ranks cannot share them.
    Progress goes to stderr, if that is a terminal.
    """
    kernels = None
    fits = parallel.size == 1 and fits_kernels(config, block_size)
    if device.type == "cpu" and dtype is torch.bfloat16 and fits:
        kernels = cpu_library.find_or_build()
    if kernels is None:
        decoder = load_decoder(
            folder, config, dtype, device, show_progress, deterministic, quantization, parallel
        )
        if device.type == "cpu" or deterministic:
            return decoder
        return _with_gpu_kernels(
            decoder, block_size, max_model_len or config.max_position_embeddings
        )
    context = cpu_library.Context(kernels, torch.get_num_threads())
    return load_cpu_decoder(folder, config, context, quantization, show_progress)


def _with_gpu_kernels(decoder: Decoder, block_size: int, max_model_len: int) -> CausalModel:
    """The same weights computed by the kernels for GPUs, where they can be used."""
    reason = gpu_support.obstacle()
    if reason is None:
        # Its libraries are not there without a GPU.
        from engine_service.models import gpu_decoder

        reason = gpu_decoder.obstacle(decoder.config, decoder.dtype, block_size)
        if reason is None:
            return gpu_decoder.GpuDecoder(decoder, max_model_len)
    log.warning("plain torch computes, since the GPU kernels cannot be used: %s", reason)
    return decoder


def load_cpu_decoder(
    folder: Path,
    config: DecoderConfig,
    context: cpu_library.Context,
    quantization: str = "none",
    show_progress: bool = False,
) -> CpuDecoder:
    """As load_model, for a shape that `fits_kernels`."""
    wanted = list(projections(config, quantization))
    with Checkpoint(folder) as checkpoint:
        checkpoint.check(_shapes(config))
        weights = CpuWeights(context, wanted)
        for each in _shown(wanted, show_progress):
            weights.pack(each.name, checkpoint.read)
        embedding = checkpoint.read_anew(_EMBEDDING)
        return CpuDecoder(config, context, weights, embedding, checkpoint.read)


def make_decoder(
    config: DecoderConfig,
    dtype: torch.dtype,
    device: torch.device,
    deterministic: bool,
    parallel: TensorParallel = SINGLE,
) -> Decoder:
    """A decoder in plain torch, without weights; of several ranks, a rank's part of it.

    A deterministic one gives a token's row the same bits whatever is computed beside it; else it is
    the fastest. Raises ConfigError where the device has no backend, or the ranks cannot share it.
    """
    part = shard_config(config, parallel)
    if deterministic:
        return Decoder(part, DeterministicAttention(), dtype, device, TILED_OPERATORS, parallel)
    return Decoder(part, choose_backend(device), dtype, device, parallel=parallel)


def load_decoder(
    folder: Path,
    config: DecoderConfig,
    dtype: torch.dtype,
    device: torch.device,
    show_progress: bool,
    deterministic: bool = False,
    quantization: str = "none",
    parallel: TensorParallel = SINGLE,
) -> Decoder:
    """As load_model, in plain torch; on a CPU projections are packed, if that is faster."""
    model = make_decoder(config, dtype, device, deterministic, parallel)
    packing, head_packing = (
        None if deterministic else choose_packing(dtype, device, name)
        for name in (quantization, head_quantization(quantization))
    )
    with Checkpoint(folder) as checkpoint:
        checkpoint.check(_shapes(config))
        model.allocate()
        targets = dict(model.weights())
        if packing is not None:
            _set_embedding(model, checkpoint.read(_EMBEDDING), parallel)
            del targets[_EMBEDDING]
        for name in _shown(checkpoint.in_file_order(iter(targets)), show_progress):
            targets[name].copy_(shard_tensor(checkpoint.read(name), name, parallel))
        if packing is not None and head_packing is not None:
            del targets  # which would keep what is packed
            model.pack(packing, head_packing)
            _set_embedding(model, checkpoint.read_anew(_EMBEDDING), parallel)
    return model


def _set_embedding(model: Decoder, whole: torch.Tensor, parallel: TensorParallel) -> None:
    """Makes the embedding a view of its file, in the type that the file has."""
    part = shard_tensor(whole, _EMBEDDING, parallel)
    model.embed_tokens = nn.Parameter(part, requires_grad=False)


def _shapes(config: DecoderConfig) -> dict[str, torch.Size]:
    """Of all tensors that a checkpoint of this config has."""
    model = make_decoder(config, torch.bfloat16, torch.device("cpu"), deterministic=False)
    return {name: target.shape for name, target in model.weights()}


def _shown(items: "list[_Item]", show_progress: bool) -> Iterable[_Item]:
    return tqdm(
        items,
        desc="Loading weights",
        unit=" tensors",
        file=sys.stderr,
        disable=not (show_progress and sys.stderr.isatty()),
    )

"""From a folder's checkpoint to a model with its weights, on the fastest backend that computes it.

On a CPU with bfloat16 that is the CpuDecoder, on a GPU the GpuDecoder. What they refuse,
TorchDecoder computes.
"""

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from engine_service.kernels.cpu import library as cpu_library
from engine_service.kernels.gpu import support as gpu_support
from engine_service.layers.linear.packing import choose_packing, head_quantization
from engine_service.layers.parallel import TensorParallel
from engine_service.models import cpu_decoder, torch_decoder
from engine_service.models.causal_model import CausalModel
from engine_service.models.cpu_decoder import CpuDecoder
from engine_service.models.cpu_weights import CpuWeights, projections
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import Cut, Weight
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.models.weights.checkpoint import Checkpoint
from folovllm.errors import ConfigError

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


def load_model(
    folder: Path, config: DecoderConfig, options: ModelOptions, show_progress: bool = False
) -> CausalModel:
    """A model with the weights of a folder.

    `config` is that of the whole model, of which a rank of several gets its part. Raises
    ConfigError if no backend computes it with these options, if weights are missing, broken or do
    not fit the config, naming the file or the tensor, and if the ranks cannot share them. Progress
    goes to stderr if that is a terminal.
    """
    if options.device.type != "cpu":
        if _gpu_kernels_compute(config, options):
            # Its libraries are not there without a GPU.
            from engine_service.models.gpu_decoder import GpuDecoder

            decoder = load_decoder(folder, config, options, show_progress)
            return GpuDecoder(decoder, options.max_model_len or config.max_position_embeddings)
    elif library := _cpu_library(config, options):
        context = cpu_library.Context(library, torch.get_num_threads())
        return load_cpu_decoder(folder, config, context, options.quantization, show_progress)
    if reason := torch_decoder.obstacle(config, options):
        raise ConfigError(reason)
    return load_decoder(folder, config, options, show_progress)


def load_cpu_decoder(
    folder: Path,
    config: DecoderConfig,
    context: cpu_library.Context,
    quantization: str = "none",
    show_progress: bool = False,
) -> CpuDecoder:
    """As load_model, for a model that has no obstacle to it."""
    packed = list(projections(config.plan, quantization))
    with Checkpoint(folder) as checkpoint:
        checkpoint.check(config.plan.weights())
        weights = CpuWeights(context, packed)
        (embedding,) = config.plan.embedding.weights()
        table = checkpoint.read(embedding.name)

        def read(name: str) -> Tensor:
            return table if name == embedding.name else checkpoint.read(name)

        for projection in _shown(packed, show_progress):
            weights.pack(projection, read)
        return CpuDecoder(config, context, weights, table, read)


def load_decoder(
    folder: Path, config: DecoderConfig, options: ModelOptions, show_progress: bool = False
) -> TorchDecoder:
    """As load_model, in plain torch; on a CPU projections are packed, if that is faster."""
    model = TorchDecoder(config, options)
    packing, head_packing = (
        choose_packing(options.dtype, options.device, name, options.deterministic)
        for name in (options.quantization, head_quantization(options.quantization))
    )
    weights = {weight.name: weight for weight in config.plan.weights()}
    (embedding,) = config.plan.embedding.weights()
    with Checkpoint(folder) as checkpoint:
        checkpoint.check(weights.values())
        model.allocate()
        targets = dict(model.weights())
        if packing is not None:
            # In the file's type.
            rows = read_shard(checkpoint, embedding, options.parallel)
            model.embed_tokens = nn.Parameter(rows, requires_grad=False)
            del targets[embedding.name]
        for name in _shown(checkpoint.in_file_order(targets), show_progress):
            targets[name].copy_(read_shard(checkpoint, weights[name], options.parallel))
    if packing is not None and head_packing is not None:
        del targets  # which would keep what is packed
        model.pack(packing, head_packing)
    return model


def _cpu_library(config: DecoderConfig, options: ModelOptions) -> Path | None:
    """The kernels for CPUs; None, with the reason in the log, if they cannot compute the model."""
    if not cpu_library.processor_has_kernels():
        return None
    if reason := cpu_decoder.obstacle(config, options):
        # Anything but bfloat16 was asked for.
        level = logging.WARNING if options.dtype is torch.bfloat16 else logging.INFO
        log.log(level, "plain torch computes: %s", reason)
        return None
    return cpu_library.find_or_build()


def _gpu_kernels_compute(config: DecoderConfig, options: ModelOptions) -> bool:
    """Whether the kernels for GPUs compute the model; if not, the reason is in the log."""
    reason = gpu_support.obstacle()
    if reason is None:
        from engine_service.models import gpu_decoder

        reason = gpu_decoder.obstacle(config, options)
    if reason is not None:
        log.warning("plain torch computes: %s", reason)
    return reason is None


def read_shard(checkpoint: Checkpoint, weight: Weight, parallel: TensorParallel) -> Tensor:
    """A rank's part of a tensor; of one that is cut into rows, only those are read."""
    name, shape, cut = weight
    if parallel.size == 1 or cut is Cut.WHOLE:
        return checkpoint.read(name)
    if cut is Cut.ONCE:
        return checkpoint.read(name) if parallel.rank == 0 else torch.zeros(shape)
    dimension = 0 if cut is Cut.OUTPUTS else 1
    start, end = parallel.span(shape[dimension])
    if dimension == 0:
        part = checkpoint.read(name, slice(start, end))
    else:
        part = checkpoint.read(name).narrow(1, start, end - start)
    missing = parallel.shard_size(shape[dimension]) - (end - start)
    if missing:
        part = torch.cat([part, part.new_zeros(missing, *part.shape[1:])])
    return part


def _shown(items: "list[_Item]", show_progress: bool) -> Iterable[_Item]:
    return tqdm(
        items,
        desc="Loading weights",
        unit=" tensors",
        file=sys.stderr,
        disable=not (show_progress and sys.stderr.isatty()),
    )

"""Builds an LLMEngine from its configuration: finds the model, loads it, sizes its KV cache."""

from contextlib import nullcontext
from pathlib import Path

from engine_service.config import EngineConfig
from engine_service.engine.llm_engine import LLMEngine
from engine_service.engine.numerics import Numerics
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.models.decoder_config import load_generation_defaults
from engine_service.runner.build import build_runner
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.model_files import (
    CONFIG_PATTERNS,
    WEIGHT_PATTERNS,
    chat_template_fingerprint,
    model_fingerprint,
    replica_fingerprint,
    resolve_model,
    tokenizer_fingerprint,
)
from folovllm.model_files.weights_fingerprint import WeightsFingerprint
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import MAX_N, SamplingParams
from folovllm.version import __version__

# Seconds that a grammar may take to compile. One that the first rank has compiled within its limit
# must not fail on the others.
_GRAMMAR_TIME_LIMIT = 5.0
_FOLLOWER_GRAMMAR_TIME_LIMIT = 60.0


def build_engine(
    config: EngineConfig, show_progress: bool = False, parallel: TensorParallel = SINGLE
) -> LLMEngine:
    """Loads what `config` names, or a rank's part of it. Raises ConfigError."""
    patterns = (*CONFIG_PATTERNS, *WEIGHT_PATTERNS)
    folder = resolve_model(config.model.model, patterns, config.model.revision)
    with nullcontext() if parallel.rank else WeightsFingerprint(folder) as fingerprint:
        built = build_runner(config, folder, show_progress, parallel)
        weights = "" if fingerprint is None else fingerprint.result()
    quantization = config.model.quantization
    dtype = str(built.dtype).removeprefix("torch.")
    replica = replica_fingerprint(
        folder, weights, dtype, quantization, config.cache.dtype, built.kernels
    )
    numerics = Numerics(
        replica=replica,
        kernels=built.kernels,
        device=built.device,
        block_size=built.block_size,
        num_ranks=parallel.size,
        deterministic=config.model.deterministic,
    )
    info = ModelInfo(
        model_id=config.model.model or folder.name,
        architecture=built.decoder_config.architecture,
        dtype=dtype if quantization == "none" else quantization,
        vocab_size=built.decoder_config.vocab_size,
        eos_token_ids=built.decoder_config.eos_token_ids,
        max_model_len=built.max_model_len,
        num_kv_blocks=built.num_blocks,
        block_size=built.block_size,
        device=str(built.device),
        tokenizer_fingerprint=tokenizer_fingerprint(folder),
        model_fingerprint=model_fingerprint(folder),
        chat_template_fingerprint=chat_template_fingerprint(folder),
        server_version=__version__,
        max_n=MAX_N,
        kernels=built.kernels,
        weights_fingerprint=weights,
        replica_fingerprint=replica,
        numerics_fingerprint=numerics.fingerprint(),
        default_sampling_params=_default_sampling_params(folder),
    )
    time_limit = _GRAMMAR_TIME_LIMIT if parallel.rank == 0 else _FOLLOWER_GRAMMAR_TIME_LIMIT
    compiler = GrammarCompiler(folder, info.vocab_size, info.eos_token_ids, time_limit=time_limit)
    return LLMEngine(built.runner, config, info, info.default_sampling_params, compiler)


def _default_sampling_params(folder: Path) -> SamplingParams:
    """The defaults of a request's parameters. Raises ConfigError."""
    try:
        return SamplingParams().clone(**load_generation_defaults(folder))
    except InvalidRequestError as error:
        raise ConfigError(f"{folder / 'generation_config.json'}: {error}") from None

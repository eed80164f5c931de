"""An engine on the GPU's runner: on a GPU as it is built, else under Triton's interpreter."""

from pathlib import Path

import torch

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.runner.gpu.model_runner import GpuModelRunner
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from folovllm.model_info import ModelInfo
from support.twins.gpu_twins import DEVICE

BLOCK_SIZE = 16


def gpu_engine(
    folder: Path, num_blocks: int, max_num_seqs: int = 8, max_num_batched_tokens: int = 48
) -> LLMEngine:
    """In float32."""
    config = EngineConfig(
        ModelConfig(str(folder), dtype="float32", device=DEVICE.type),
        CacheConfig(BLOCK_SIZE, num_blocks),
        SchedulerConfig(max_num_seqs, max_num_batched_tokens, speculation="none"),
    )
    if DEVICE.type == "cuda":
        return build_engine(config)
    decoder_config = DecoderConfig.from_folder(folder)
    decoder = load_decoder(
        folder, decoder_config, ModelOptions(torch.float32, DEVICE, deterministic=True)
    )
    max_model_len = decoder_config.max_position_embeddings
    runner = GpuModelRunner(
        model=GpuDecoder(decoder, max_model_len),
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
    )
    info = ModelInfo(
        model_id="tiny",
        architecture=decoder_config.architecture,
        dtype="float32",
        vocab_size=decoder_config.vocab_size,
        eos_token_ids=decoder_config.eos_token_ids,
        max_model_len=max_model_len,
        num_kv_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        device="cuda",
        tokenizer_fingerprint="",
        model_fingerprint="",
        chat_template_fingerprint="",
        server_version="",
        max_n=128,
    )
    compiler = GrammarCompiler(folder, info.vocab_size, info.eos_token_ids, time_limit=60.0)
    return LLMEngine(runner, config, info, grammar_compiler=compiler)

"""A model and its tokenizer as plain values, for those who put the parts together themselves."""

from typing import TYPE_CHECKING

from folovllm.model_files import CONFIG_PATTERNS, WEIGHT_PATTERNS, resolve_model
from folovllm_client.launch.service_commands import require_services

if TYPE_CHECKING:
    from engine_service.config import ModelConfig
    from engine_service.models.causal_model import CausalModel
    from tokenizer_service.text.tokenizer import Tokenizer


def get_model_and_tokenizer(config: "ModelConfig") -> "tuple[CausalModel, Tokenizer]":
    """Loads the weights and the tokenizer that a ModelConfig names. Raises ConfigError."""
    require_services()
    from engine_service.device import resolve_device, resolve_dtype
    from engine_service.models.decoder_config import DecoderConfig
    from engine_service.models.loader import load_model
    from engine_service.models.model_options import ModelOptions
    from tokenizer_service.text.tokenizer import Tokenizer

    folder = resolve_model(config.model, (*CONFIG_PATTERNS, *WEIGHT_PATTERNS))
    decoder_config = DecoderConfig.from_folder(folder)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, decoder_config.dtype, device)
    options = ModelOptions(dtype, device, quantization=config.quantization)
    model = load_model(folder, decoder_config, options, show_progress=True)
    return model, Tokenizer.from_folder(folder)

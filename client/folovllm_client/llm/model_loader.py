"""A model and its tokenizer as plain values, for those who put the parts together themselves."""

from pathlib import Path
from typing import TYPE_CHECKING

from folovllm.model_files import CONFIG_PATTERNS, WEIGHT_PATTERNS, resolve_model
from folovllm_client.launch.service_commands import require_services

if TYPE_CHECKING:
    from engine_service.config import ModelConfig
    from engine_service.models.causal_model import CausalModel
    from tokenizer_service.text.tokenizer import Tokenizer


class ModelLoader:
    """Loads the weights and the tokenizer that a ModelConfig names."""

    def __init__(self, config: "ModelConfig", device: str | None = None) -> None:
        """Finds the model's folder, or fetches it from the hub; `device` is for the config's.

        Raises ConfigError.
        """
        require_services()
        self.config = config
        self.device = config.device if device is None else device
        patterns = (*CONFIG_PATTERNS, *WEIGHT_PATTERNS)
        self.folder: Path = resolve_model(config.model, patterns, config.revision)

    def load_model(self) -> "CausalModel":
        """The weights, where and as the config says. Raises ConfigError."""
        from engine_service.device import resolve_device, resolve_dtype
        from engine_service.models.decoder_config import DecoderConfig
        from engine_service.models.loader import load_model
        from engine_service.models.model_options import ModelOptions

        decoder_config = DecoderConfig.from_folder(self.folder)
        device = resolve_device(self.device)
        options = ModelOptions(
            resolve_dtype(self.config.dtype, decoder_config.dtype, device),
            device,
            deterministic=self.config.deterministic,
            quantization=self.config.quantization,
            max_model_len=self.config.max_model_len,
        )
        return load_model(self.folder, decoder_config, options, show_progress=True)

    def load_tokenizer(self) -> "Tokenizer":
        """The tokenizer of the same folder. Raises ConfigError."""
        from tokenizer_service.text.tokenizer import Tokenizer

        return Tokenizer.from_folder(self.folder)


def get_model_and_tokenizer(
    config: "ModelConfig", device: str | None = None
) -> "tuple[CausalModel, Tokenizer]":
    """Both of what a ModelConfig names, on `device` if it is given. Raises ConfigError."""
    loader = ModelLoader(config, device)
    return loader.load_model(), loader.load_tokenizer()

"""What EngineArgs name, loaded: the model's text side, and its engine."""

from engine_service.engine.factory import build_engine
from engine_service.engine.llm_engine import LLMEngine
from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm_client.llm.engine_args import EngineArgs
from tokenizer_service.model import TextModel


def load_text_model(args: EngineArgs) -> TextModel:
    """Tokenizer and chat template. Raises ConfigError."""
    if args.tokenizer is None:
        model, revision = args.model, args.tokenizer_revision or args.revision
    else:
        model, revision = args.tokenizer, args.tokenizer_revision
    return TextModel.from_folder(resolve_model(model, CONFIG_PATTERNS, revision))


def load_engine(args: EngineArgs, text_model: TextModel) -> LLMEngine:
    """The engine, once its model and the text side are known to agree. Raises ConfigError."""
    engine = build_engine(args.engine_config(), show_progress=True)
    expected = engine.info.tokenizer_fingerprint
    if expected and text_model.tokenizer.fingerprint != expected:
        raise ConfigError(
            f"tokenizer {args.tokenizer or args.tokenizer_revision} is not that of the model "
            f"{engine.info.model_id}: their tokenizer.json differ"
        )
    return engine

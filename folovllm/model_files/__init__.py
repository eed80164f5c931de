"""A model's files: its folder, the hub's cache, fingerprints."""

from folovllm.model_files.fingerprints import (
    chat_template_fingerprint,
    file_fingerprint,
    model_fingerprint,
    tokenizer_fingerprint,
)
from folovllm.model_files.folder import (
    CONFIG_PATTERNS,
    DEMO_MODEL,
    TOKENIZER_FILE_NAMES,
    WEIGHT_INDEX,
    WEIGHT_PATTERNS,
    check_model_folder,
    find_tokenizer_files,
    is_hub_id,
    read_chat_template,
    read_json,
    resolve_model,
    weight_files,
)

__all__ = [
    "CONFIG_PATTERNS",
    "DEMO_MODEL",
    "TOKENIZER_FILE_NAMES",
    "WEIGHT_INDEX",
    "WEIGHT_PATTERNS",
    "chat_template_fingerprint",
    "check_model_folder",
    "file_fingerprint",
    "find_tokenizer_files",
    "is_hub_id",
    "model_fingerprint",
    "read_chat_template",
    "read_json",
    "resolve_model",
    "tokenizer_fingerprint",
    "weight_files",
]

"""ConfigReader: a parsed config.json, which knows what of it has been read."""

from collections.abc import Iterator, Mapping

from folovllm.errors import ConfigError

# Neither the shape nor the computation depends on these.
_METADATA = """
architectures attn_implementation dtype gradient_checkpointing id2label initializer_range
is_llama_config label2id max_sequence_length model_max_length model_type name_or_path
pretraining_tp problem_type return_dict task_specific_params tokenizer_class torch_dtype
transformers.js_config transformers_version unsloth_fixed unsloth_version use_cache
"""
_HARMLESS = frozenset(_METADATA.split())


class ConfigReader(Mapping[str, object]):
    """Typed values by key. All getters raise ConfigError, naming the key, for a malformed one."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values
        self._read: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self._read.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """A whole number; an error where it is missing and there is no default."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(
                f"config.json: {key} must be a whole number from {minimum}, got {value!r}"
            )
        return value

    def positive(self, key: str, default: float) -> float:
        """A positive number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ConfigError(f"config.json: {key} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, key: str) -> bool:
        """False where it is missing."""
        return bool(self.get(key))

    def refuse_unread(self) -> None:
        """Raises ConfigError for a key that is set, was not read, and may change the computation.

        What is null, false, zero or empty counts as not set.
        """
        for key, value in self._values.items():
            harmless = key in _HARMLESS or key[0] == "_" or key.endswith(("dropout", "_token_id"))
            if value and key not in self._read and not harmless:
                raise ConfigError(
                    f"config.json: {key} is not supported for this architecture, got {value!r}"
                )

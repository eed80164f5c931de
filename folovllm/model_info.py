"""ModelInfo: the model that is served, and how; with its converter."""

from dataclasses import asdict, dataclass

from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What GetModelInfo returns; the contract documents the fields."""

    model_id: str = ""
    architecture: str = ""
    dtype: str = ""
    vocab_size: int = 0
    eos_token_ids: tuple[int, ...] = ()
    max_model_len: int = 0
    num_kv_blocks: int = 0
    block_size: int = 0
    device: str = ""
    tokenizer_fingerprint: str = ""
    model_fingerprint: str = ""
    chat_template_fingerprint: str = ""
    server_version: str = ""
    max_n: int = 0
    kernels: str = ""

    def to_proto(self) -> types_pb2.ModelInfo:
        """The message of the contract."""
        return types_pb2.ModelInfo(**asdict(self))

    @classmethod
    def from_proto(cls, message: types_pb2.ModelInfo) -> "ModelInfo":
        """Reads a message of the contract."""
        values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
        return cls(**values | {"eos_token_ids": tuple(message.eos_token_ids)})

"""ModelInfo: the model that is served, and how."""

from dataclasses import dataclass

from folovllm.message_fields import MessageFields
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class EngineState(MessageFields[types_pb2.EngineState]):
    """What a tokenizer service knows of an engine; the contract documents the fields."""

    message_type = types_pb2.EngineState

    address: str = ""
    ready: bool = False
    state: str = ""
    replica_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo(MessageFields[types_pb2.ModelInfo]):
    """What GetModelInfo returns; the contract documents the fields."""

    message_type = types_pb2.ModelInfo

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
    weights_fingerprint: str = ""
    replica_fingerprint: str = ""
    engines: tuple[EngineState, ...] = ()
    numerics_fingerprint: str = ""
    default_sampling_params: SamplingParams = SamplingParams()

"""The public face of FolovLLM.

Every name is imported when it is first used, so that a client needs no torch and a service loads
only its own half. What a name needs beyond the base installation is an extra of the distribution:
`folovllm[client]`, `folovllm[tokenizer]`, `folovllm[engine]` or `folovllm[all]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from folovllm.version import __version__

if TYPE_CHECKING:
    from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
    from engine_service.core.request import Request
    from folovllm.chat import ChatMessage, Role, Tool, ToolCall
    from folovllm.chat_outputs import ChatOutput, ChatResult
    from folovllm.errors import FolovError, InvalidRequestError
    from folovllm.outputs import CompletionOutput, FinishReason, RequestOutput
    from folovllm.sampling_params import SamplingParams
    from folovllm.score import ScoreOutput
    from folovllm_client.api.async_client import AsyncClient
    from folovllm_client.api.sync_client import Client
    from folovllm_client.api.tools import Toolbox
    from folovllm_client.llm import LLM, get_model_and_tokenizer

_HOMES = {
    "LLM": "folovllm_client.llm",
    "get_model_and_tokenizer": "folovllm_client.llm",
    "Client": "folovllm_client.api.sync_client",
    "AsyncClient": "folovllm_client.api.async_client",
    "Toolbox": "folovllm_client.api.tools",
    "ModelConfig": "engine_service.config",
    "CacheConfig": "engine_service.config",
    "SchedulerConfig": "engine_service.config",
    "EngineConfig": "engine_service.config",
    "Request": "engine_service.core.request",
    "SamplingParams": "folovllm.sampling_params",
    "CompletionOutput": "folovllm.outputs",
    "RequestOutput": "folovllm.outputs",
    "ScoreOutput": "folovllm.score",
    "FinishReason": "folovllm.outputs",
    "ChatMessage": "folovllm.chat",
    "Role": "folovllm.chat",
    "Tool": "folovllm.chat",
    "ToolCall": "folovllm.chat",
    "ChatOutput": "folovllm.chat_outputs",
    "ChatResult": "folovllm.chat_outputs",
    "FolovError": "folovllm.errors",
    "InvalidRequestError": "folovllm.errors",
}

__all__ = [
    "LLM",
    "AsyncClient",
    "CacheConfig",
    "ChatMessage",
    "ChatOutput",
    "ChatResult",
    "Client",
    "CompletionOutput",
    "EngineConfig",
    "FinishReason",
    "FolovError",
    "InvalidRequestError",
    "ModelConfig",
    "Request",
    "RequestOutput",
    "Role",
    "SamplingParams",
    "SchedulerConfig",
    "ScoreOutput",
    "Tool",
    "ToolCall",
    "Toolbox",
    "__version__",
    "get_model_and_tokenizer",
]


def __getattr__(name: str) -> object:
    """Imports a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return list(__all__)

"""The public face of FolovLLM.

Every name is imported when it is first used, so that a client needs no torch and a service loads
only what it needs. The base installation is the client; what the services need are extras of the
distribution: `folovllm[tokenizer]`, `folovllm[engine]` or `folovllm[all]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from folovllm.version import __version__

if TYPE_CHECKING:
    from engine_service.config import CacheConfig as CacheConfig
    from engine_service.config import EngineConfig as EngineConfig
    from engine_service.config import ModelConfig as ModelConfig
    from engine_service.config import SchedulerConfig as SchedulerConfig
    from engine_service.core.request import Request as Request
    from folovllm.chat import ChatMessage as ChatMessage
    from folovllm.chat import Role as Role
    from folovllm.chat import Tool as Tool
    from folovllm.chat import ToolCall as ToolCall
    from folovllm.chat_outputs import ChatOutput as ChatOutput
    from folovllm.chat_outputs import ChatResult as ChatResult
    from folovllm.errors import FolovError as FolovError
    from folovllm.errors import InvalidRequestError as InvalidRequestError
    from folovllm.outputs import CompletionOutput as CompletionOutput
    from folovllm.outputs import FinishReason as FinishReason
    from folovllm.outputs import RequestOutput as RequestOutput
    from folovllm.sampling_params import SamplingParams as SamplingParams
    from folovllm.score import ScoreOutput as ScoreOutput
    from folovllm_client.api.async_client import AsyncClient as AsyncClient
    from folovllm_client.api.sync_client import Client as Client
    from folovllm_client.api.tools import Toolbox as Toolbox
    from folovllm_client.llm.async_llm import AsyncLLM as AsyncLLM
    from folovllm_client.llm.engine_args import AsyncEngineArgs as AsyncEngineArgs
    from folovllm_client.llm.engine_args import EngineArgs as EngineArgs
    from folovllm_client.llm.llm import LLM as LLM
    from folovllm_client.llm.llm_engine import LLMEngine as LLMEngine
    from folovllm_client.llm.model_and_tokenizer import (
        get_model_and_tokenizer as get_model_and_tokenizer,
    )

_HOMES = {
    "folovllm_client.llm.llm": ("LLM",),
    "folovllm_client.llm.llm_engine": ("LLMEngine",),
    "folovllm_client.llm.async_llm": ("AsyncLLM",),
    "folovllm_client.llm.engine_args": ("EngineArgs", "AsyncEngineArgs"),
    "folovllm_client.llm.model_and_tokenizer": ("get_model_and_tokenizer",),
    "folovllm_client.api.sync_client": ("Client",),
    "folovllm_client.api.async_client": ("AsyncClient",),
    "folovllm_client.api.tools": ("Toolbox",),
    "engine_service.config": ("ModelConfig", "CacheConfig", "SchedulerConfig", "EngineConfig"),
    "engine_service.core.request": ("Request",),
    "folovllm.sampling_params": ("SamplingParams",),
    "folovllm.outputs": ("CompletionOutput", "RequestOutput", "FinishReason"),
    "folovllm.score": ("ScoreOutput",),
    "folovllm.chat": ("ChatMessage", "Role", "Tool", "ToolCall"),
    "folovllm.chat_outputs": ("ChatOutput", "ChatResult"),
    "folovllm.errors": ("FolovError", "InvalidRequestError"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    """Imports a public name from its home (PEP 562). Raises MissingPackagesError."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(_HOME_OF[name])
    except ModuleNotFoundError as error:
        from folovllm.installation.parts import explained

        raise explained(error) from None
    return getattr(home, name)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__

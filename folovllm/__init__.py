"""The public face of FolovLLM.

Every name is imported when it is first used, so that a client needs no torch and a service loads
only what it needs. The base installation is the client; what the services need are extras of the
distribution: `folovllm[tokenizer]`, `folovllm[engine]` or `folovllm[all]`.
"""

from typing import TYPE_CHECKING

from folovllm.installation.lazy_names import lazy_names
from folovllm.version import __version__

if TYPE_CHECKING:
    from engine_service.config import CacheConfig as CacheConfig
    from engine_service.config import EngineConfig as EngineConfig
    from engine_service.config import ModelConfig as ModelConfig
    from engine_service.config import SchedulerConfig as SchedulerConfig
    from engine_service.core.request import Request as Request
    from engine_service.core.request import RequestStatus as RequestStatus
    from engine_service.core.request import Sequence as Sequence
    from engine_service.core.sequence_data import SequenceData as SequenceData
    from folovllm.chat import ChatMessage as ChatMessage
    from folovllm.chat import Role as Role
    from folovllm.chat import Tool as Tool
    from folovllm.chat import ToolCall as ToolCall
    from folovllm.chat_outputs import ChatAnswer as ChatAnswer
    from folovllm.chat_outputs import ChatFinish as ChatFinish
    from folovllm.chat_outputs import ChatFinishReason as ChatFinishReason
    from folovllm.chat_outputs import ChatOutput as ChatOutput
    from folovllm.chat_outputs import ChatResult as ChatResult
    from folovllm.chat_outputs import ContentDelta as ContentDelta
    from folovllm.chat_outputs import ReasoningDelta as ReasoningDelta
    from folovllm.chat_outputs import ToolCallArgumentsDelta as ToolCallArgumentsDelta
    from folovllm.chat_outputs import ToolCallEnd as ToolCallEnd
    from folovllm.chat_outputs import ToolCallStart as ToolCallStart
    from folovllm.errors import CancelledRequestError as CancelledRequestError
    from folovllm.errors import ClientClosedError as ClientClosedError
    from folovllm.errors import ConfigError as ConfigError
    from folovllm.errors import DeadlineError as DeadlineError
    from folovllm.errors import EngineDeadError as EngineDeadError
    from folovllm.errors import FolovError as FolovError
    from folovllm.errors import InvalidRequestError as InvalidRequestError
    from folovllm.errors import ModelMismatchError as ModelMismatchError
    from folovllm.errors import NotFoundError as NotFoundError
    from folovllm.errors import QueueFullError as QueueFullError
    from folovllm.errors import ServerError as ServerError
    from folovllm.errors import UnavailableError as UnavailableError
    from folovllm.errors import UnreachableError as UnreachableError
    from folovllm.errors import UnsupportedError as UnsupportedError
    from folovllm.errors import WrongServiceError as WrongServiceError
    from folovllm.logprobs import Logprob as Logprob
    from folovllm.logprobs import PositionLogprobs as PositionLogprobs
    from folovllm.outputs import CompletionOutput as CompletionOutput
    from folovllm.outputs import FinishReason as FinishReason
    from folovllm.outputs import RequestInfo as RequestInfo
    from folovllm.outputs import RequestMetrics as RequestMetrics
    from folovllm.outputs import RequestOutput as RequestOutput
    from folovllm.outputs import Usage as Usage
    from folovllm.parameters.reasoning import Reasoning as Reasoning
    from folovllm.parameters.structured_output import GuidedDecodingParams as GuidedDecodingParams
    from folovllm.parameters.structured_output import StructuredOutput as StructuredOutput
    from folovllm.parameters.structured_output import (
        StructuredOutputsParams as StructuredOutputsParams,
    )
    from folovllm.prompts import TextPrompt as TextPrompt
    from folovllm.prompts import TokensPrompt as TokensPrompt
    from folovllm.sampling_params import SamplingParams as SamplingParams
    from folovllm.score import ScoreOutput as ScoreOutput
    from folovllm.vllm_names import NoEffectWarning as NoEffectWarning
    from folovllm.vllm_names import RequestOutputKind as RequestOutputKind
    from folovllm_client.api.async_client import AsyncClient as AsyncClient
    from folovllm_client.api.sync_client import Client as Client
    from folovllm_client.api.tools import Toolbox as Toolbox
    from folovllm_client.llm.async_llm import AsyncLLM as AsyncLLM
    from folovllm_client.llm.engine_args import AsyncEngineArgs as AsyncEngineArgs
    from folovllm_client.llm.engine_args import EngineArgs as EngineArgs
    from folovllm_client.llm.llm import LLM as LLM
    from folovllm_client.llm.llm_engine import LLMEngine as LLMEngine
    from folovllm_client.llm.model_loader import ModelLoader as ModelLoader
    from folovllm_client.llm.model_loader import get_model_and_tokenizer as get_model_and_tokenizer

_HOMES = {
    "folovllm_client.llm.llm": ("LLM",),
    "folovllm_client.llm.llm_engine": ("LLMEngine",),
    "folovllm_client.llm.async_llm": ("AsyncLLM",),
    "folovllm_client.llm.engine_args": ("EngineArgs", "AsyncEngineArgs"),
    "folovllm_client.llm.model_loader": ("ModelLoader", "get_model_and_tokenizer"),
    "folovllm_client.api.sync_client": ("Client",),
    "folovllm_client.api.async_client": ("AsyncClient",),
    "folovllm_client.api.tools": ("Toolbox",),
    "engine_service.config": ("ModelConfig", "CacheConfig", "SchedulerConfig", "EngineConfig"),
    "engine_service.core.request": ("Request", "RequestStatus", "Sequence"),
    "engine_service.core.sequence_data": ("SequenceData",),
    "folovllm.sampling_params": ("SamplingParams",),
    "folovllm.parameters.reasoning": ("Reasoning",),
    "folovllm.parameters.structured_output": (
        "StructuredOutput",
        "StructuredOutputsParams",
        "GuidedDecodingParams",
    ),
    "folovllm.vllm_names": ("NoEffectWarning", "RequestOutputKind"),
    "folovllm.prompts": ("TextPrompt", "TokensPrompt"),
    "folovllm.outputs": (
        "CompletionOutput",
        "RequestOutput",
        "FinishReason",
        "RequestInfo",
        "RequestMetrics",
        "Usage",
    ),
    "folovllm.logprobs": ("Logprob", "PositionLogprobs"),
    "folovllm.score": ("ScoreOutput",),
    "folovllm.chat": ("ChatMessage", "Role", "Tool", "ToolCall"),
    "folovllm.chat_outputs": (
        "ChatAnswer",
        "ChatFinish",
        "ChatFinishReason",
        "ChatOutput",
        "ChatResult",
        "ContentDelta",
        "ReasoningDelta",
        "ToolCallArgumentsDelta",
        "ToolCallEnd",
        "ToolCallStart",
    ),
    "folovllm.errors": (
        "CancelledRequestError",
        "ClientClosedError",
        "ConfigError",
        "DeadlineError",
        "EngineDeadError",
        "FolovError",
        "InvalidRequestError",
        "ModelMismatchError",
        "NotFoundError",
        "QueueFullError",
        "ServerError",
        "UnavailableError",
        "UnreachableError",
        "UnsupportedError",
        "WrongServiceError",
    ),
}

__all__ = ["__version__", *(name for names in _HOMES.values() for name in names)]
__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    """Lists the public names."""
    return __all__

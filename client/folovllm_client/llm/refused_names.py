"""What vLLM's LLM has and ours has not, each with the reason."""

from typing import NoReturn

from folovllm.errors import UnsupportedError

_POOLING = "models that generate are served, not those that embed or classify"
_WEIGHTS = "weights are read when a model is loaded, and never change; make another LLM"
_SLEEP = "the memory of a model is given back when the process ends"
_WORKERS = "a model in this process has no workers"

_REASONS = {
    "beam_search": "no beam search; n continuations or generate_branches explore several ways",
    **dict.fromkeys(("encode", "embed", "classify"), _POOLING),
    **dict.fromkeys(("sleep", "wake_up", "release_kv_cache_memory"), _SLEEP),
    **dict.fromkeys(("collective_rpc", "apply_model"), _WORKERS),
    **dict.fromkeys(("start_profile", "stop_profile"), "profile the process with a profiler"),
    **dict.fromkeys(
        (
            "init_weight_transfer_engine",
            "shutdown_weight_transfer_engine",
            "start_weight_update",
            "start_draft_weight_update",
            "update_weights",
            "finish_weight_update",
            "update_weight_version",
            "get_weight_version",
        ),
        _WEIGHTS,
    ),
    **dict.fromkeys(
        (
            "model_config",
            "runner_type",
            "supported_tasks",
            "pooling_task",
            "pooling_io_processors",
        ),
        "model_info says what was loaded",
    ),
    **dict.fromkeys(
        ("chat_template", "chat_template_config", "renderer", "input_processor"),
        "get_tokenizer().apply_chat_template renders",
    ),
    **dict.fromkeys(("engine_class", "request_counter"), "it is vLLM's own"),
    "default_sampling_params": "call get_default_sampling_params()",
    "get_metrics": "RequestOutput.metrics has the times of each request",
    "get_world_size": "a model in this process has one device",
    "reset_mm_cache": "models take text only",
    **dict.fromkeys(
        ("enqueue", "enqueue_chat", "wait_for_completion"),
        "LLM.llm_engine has add_request and step, AsyncLLM streams",
    ),
}


class RefusedNameError(UnsupportedError, AttributeError):
    """vLLM has an attribute of this name, and this project has not."""


def refuse(owner: str, name: str) -> NoReturn:
    """Raises the error for an attribute that does not exist; it says why, if vLLM has one."""
    if name in _REASONS:
        raise RefusedNameError(f"{owner} has no {name}: {_REASONS[name]} (docs/vllm.md)")
    raise AttributeError(f"{owner!r} object has no attribute {name!r}")

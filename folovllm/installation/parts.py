"""The parts of FolovLLM, which are extras of the distribution, and the packages that each needs."""

from importlib.util import find_spec

_CLIENT = {
    "grpcio": "grpc",
    "protobuf": "google.protobuf",
    "googleapis-common-protos": "google.rpc",
    "grpcio-health-checking": "grpc_health",
    "click": "click",
    "pydantic": "pydantic",
    "rich": "rich",
    "prompt_toolkit": "prompt_toolkit",
    "platformdirs": "platformdirs",
    "packaging": "packaging",
}
_SERVER = {
    "grpcio-reflection": "grpc_reflection",
    "structlog": "structlog",
}
# Not uvloop, without which the service runs too.
_TOKENIZER = {
    "tokenizers": "tokenizers",
    "huggingface_hub": "huggingface_hub",
    "transformers": "transformers",
    "jinja2": "jinja2",
}
_ENGINE = {
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "psutil": "psutil",
    "tqdm": "tqdm",
    "llguidance": "llguidance",
}

PARTS = {
    "client": _CLIENT,
    "tokenizer": _CLIENT | _SERVER | _TOKENIZER,
    "engine": _CLIENT | _SERVER | _ENGINE,
    "all": _CLIENT | _SERVER | _TOKENIZER | _ENGINE,
}
"""By extra, the module of each package. `client` is what every installation has."""

_TITLES = {
    "client": "FolovLLM",
    "tokenizer": "the tokenizer service",
    "engine": "the engine service",
    "all": "running a model here",
}
_MAX_NAMES = 3


class MissingPackagesError(ImportError):
    """Packages of a part are not installed; the message has the command that installs them."""


def missing_packages(part: str) -> list[str]:
    """The packages of a part that cannot be imported."""
    return [package for package, module in PARTS[part].items() if not _is_installed(module)]


def missing_line(part: str) -> str | None:
    """What a part lacks, and the command that installs it; None if it lacks nothing."""
    missing = missing_packages(part)
    if not missing:
        return None
    # Takes longer to import than all else that a start needs from here.
    from folovllm.installation.pip_command import install_command

    shown, rest = missing[:_MAX_NAMES], len(missing) - _MAX_NAMES
    names = [*shown, f"{rest} more"] if rest > 0 else shown
    return f"{_TITLES[part]} needs {listed(names)}; install with: {install_command(part)}"


def explained(error: ModuleNotFoundError) -> ImportError:
    """MissingPackagesError if what could not be imported is a part's package, else the error."""
    module = error.name or ""
    for part in ("client", "all"):
        if any(module == each.split(".")[0] or module == each for each in PARTS[part].values()):
            return MissingPackagesError(missing_line(part) or str(error), name=module)
    return error


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is the package that it would lie in
        return False

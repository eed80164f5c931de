"""The tool that reads vLLM's names, on a package of the same layout."""

from pathlib import Path

import pytest

from tools.vllm_names import read_names

SOURCES = {
    "_version.py": "__version__ = version = '1.2.3'\n",
    "entrypoints/llm.py": """
class LLM:
    def __init__(self, model, *, seed=0, **kwargs):
        self.engine = self._private = None
        other.attribute = 1
    def generate(self, prompts, *, use_tqdm=True): ...
    def _hidden(self): ...
    @property
    def size(self): ...
""",
    "entrypoints/generate/beam_search/offline.py": """
class BeamSearchOfflineMixin:
    def beam_search(self, prompts): ...
""",
    "entrypoints/pooling/offline.py": "class PoolingOfflineMixin:\n    x: int\n",
    "entrypoints/rl/offline.py": "class RLOfflineMixin:\n    pass\n",
    "sampling_params.py": "class SamplingParams:\n    n: int = 1\n    _hidden: int = 2\n",
    "outputs.py": "class RequestOutput:\n    a: int\nclass CompletionOutput:\n    b: int\n",
    "engine/arg_utils.py": "class EngineArgs:\n    model: str\n    block_size: int\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_public_names_are_read_without_an_import(folder: Path) -> None:
    names = read_names(folder)
    assert names["version"] == "1.2.3"
    assert names["LLM"] == {
        "arguments": ["model", "seed"],
        "methods": {"generate": ["prompts", "use_tqdm"], "beam_search": ["prompts"]},
        "attributes": ["engine", "size", "x"],
        "engine_arguments": ["block_size"],
    }
    assert names["SamplingParams"] == {"arguments": ["n"], "methods": {}, "attributes": ["n"]}


def test_a_folder_of_something_else_is_said(folder: Path) -> None:
    (folder / "sampling_params.py").write_text("")
    with pytest.raises(SystemExit, match="sampling_params.py has no class SamplingParams"):
        read_names(folder)
    (folder / "_version.py").write_text("")
    with pytest.raises(SystemExit, match="is not vLLM's package"):
        read_names(folder)

"""Functions fit on a screen, and calls with many arguments name them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "folovllm",
    "tokenizer_service",
    "engine_service",
    "client/folovllm_client",
    "benchmarks",
    "tools",
)
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 6
TORCH_OPERATORS = "torch.ops."
"""Their arguments have no names."""


def is_kernel(node: ast.AST) -> bool:
    """Whether it is a function of Triton's language, which has no other way to share registers."""
    return isinstance(node, ast.FunctionDef) and any(
        "triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list
    )


def outside_kernels(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not is_kernel(child):
            yield child
            yield from outside_kernels(child)


def offences(source: str) -> Iterator[str]:
    """What is too long or unnamed, each with its line."""
    for node in outside_kernels(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            positional = [each for each in node.args if not isinstance(each, ast.Starred)]
            if len(positional) > MAX_POSITIONAL and not called.startswith(TORCH_OPERATORS):
                yield f"{node.lineno}: {called} gets {len(positional)} arguments without names"


def test_functions_are_short_and_long_calls_name_their_arguments() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{offence}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "_pb2" not in path.name
        for offence in offences(path.read_text())
    ]
    assert found == []


def test_what_is_too_long_is_found() -> None:
    body = "    pass\n" * MAX_FUNCTION_LINES
    kernel = f"@triton.jit\ndef kernel():\n{body}    f(1, 2, 3, 4, 5, 6, 7)\n"
    assert list(offences(kernel + f"def long():\n{body}f(1, 2, 3, 4, 5, 6, 7)\n")) == [
        "64: long has 61 lines",
        "125: f gets 7 arguments without names",
    ]

"""Commands that are typed wrong: one line that says what to type, and exit code 2."""

import pytest
from click.testing import CliRunner

from folovllm_client.cli.commands import commands
from folovllm_client.cli.console import command_name

HELP = "`{program} {command} --help` says what to type"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("generate", f"PROMPT is missing; {HELP}"),
        ("generate a b c", "'b c' is too much; put a text of several words in quotes"),
        ("health b", f"'b' is too much; {HELP}"),
        ("generate a --tempurature 1", "there is no option --tempurature; did you mean --temperat"),
        ("generate a --zzz", f"there is no option --zzz; {HELP}"),
        ("generate a --seed", f"option '--seed' requires an argument; {HELP}"),
        ("generate a --timeout 0", "--timeout must be above 0, got 0.0"),
        ("generate a --max-tokens many", "--max-tokens must be a whole number, got 'many'"),
        ("generate a --temperature hot", "--temperature must be a number, got 'hot'"),
        ("generate a --json-schema /no/file", "--json-schema: '/no/file': No such file or direct"),
        ("chat --thinking-budget -1", "--thinking-budget must be at least 0, got -1"),
        ("chat --tools /no/file", "--tools: File '/no/file' does not exist"),
        ("detokenize x", "ID... must be a whole number, got 'x'"),
        ("detokenize 4294967296", "ID... must be between 0 and 4294967295, got 4294967296"),
        ("completion csh", "SHELL must be one of bash, zsh, fish, got 'csh'"),
        ("--versio", "there is no option --versio; did you mean --version?"),
    ],
)
def test_what_is_typed_wrong_is_one_line(typed: str, message: str) -> None:
    result = CliRunner().invoke(commands, typed.split())
    expected = message.format(program=command_name(), command=typed.split()[0])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(f"error: {expected}")

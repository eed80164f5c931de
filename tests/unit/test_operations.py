"""docs/operations.md: every limit is there, as it is."""

import re
from pathlib import Path

from folovllm_client.launch.serve_flags import serve_flags
from tools.bounds_table import bounds_table

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
LIMIT = re.compile(r"^\| [^|]+ \| ([^|]+) \| `(--[\w-]+)` \|", re.MULTILINE)


def test_the_bounds_of_fields_are_those_of_the_contract() -> None:
    printed = PAGE.partition("<!-- bounds -->\n")[2].partition("\n<!-- /bounds -->")[0]
    assert printed == bounds_table(), "run python -m tools.bounds_table"


def test_flags_are_there_with_their_defaults() -> None:
    options = {flag.option.opts[0]: flag.option for flag in serve_flags()}
    limits = LIMIT.findall(PAGE)
    assert len(limits) > 8
    for text, name in limits:
        default = options[name].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            shown = {f"{default:,g}", f"{default:,.0f}", f"{default / 2**20:g} MiB"}
            assert any(text.startswith(each) for each in shown), (name, text, default)


def test_every_flag_that_is_a_limit_is_there() -> None:
    limits = {flag.option.opts[0] for flag in serve_flags() if "max" in flag.option.opts[0]}
    missing = {name for name in limits if f"`{name}`" not in PAGE and "engine-" not in name}
    assert missing == set()

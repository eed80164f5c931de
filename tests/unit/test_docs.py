"""The pages name files and sections that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/dev/*.md")]
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.\w+)`")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
ROOMS = ("", "client/folovllm_client", "engine_service", "tokenizer_service")
"""Folders from which pages name files."""
PLACEHOLDER = "NAME"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in plain}


def missing_files(page: Path) -> Iterator[str]:
    for name in FILE.findall(page.read_text()):
        path = name if PLACEHOLDER not in name else str(Path(name).parent)
        if not any((ROOT / room / path).exists() for room in ROOMS):
            yield name


def broken_links(page: Path) -> Iterator[str]:
    for path, anchor in LINK.findall(page.read_text()):
        if "://" in path:
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            yield f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_what_there_is(page: Path) -> None:
    assert [*missing_files(page), *broken_links(page)] == []


def test_what_there_is_not_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `x`: two\n`core/no_such.py` `core/request.py` [a](#one-x-two) [b](#no)")
    assert [*missing_files(page), *broken_links(page)] == ["core/no_such.py", "#no"]

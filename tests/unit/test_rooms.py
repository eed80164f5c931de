"""The code lies in the rooms that docs/architecture.md draws, and imports go the way it says."""

from pathlib import Path

import grimp
import pytest

from support.rooms import Picture, Room, read_picture

ROOT = Path(__file__).parents[2]
PACKAGES = ("folovllm", "tokenizer_service", "engine_service", "folovllm_client")
FACES = {"folovllm", "folovllm.utils", "folovllm.__main__"}
"""The first two import each public name when it is first used; the other is the command."""
MAX_MODULES = 16
PICTURE = """
```mermaid
flowchart TD
  top --> bottom
  subgraph top
    a --> b[b · c] & d
  end
  subgraph bottom
    e[everything else]
  end
```
"""
ROOMS = {("top", name) for name in "abcd"} | {("bottom", "x"), ("bottom", "y")}
IMPORTS = [
    (("top", "a"), ("top", "b")),
    (("top", "a"), ("top", "d")),
    (("top", "b"), ("top", "c")),
    (("top", "d"), ("bottom", "x")),
]


def room_of(module: str) -> Room | None:
    """None for a package's `__init__`."""
    package, *rest = module.split(".")
    return (package, rest[0]) if rest else None


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Imports under TYPE_CHECKING are in it too."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


@pytest.fixture(scope="module")
def picture() -> Picture:
    return read_picture((ROOT / "docs" / "architecture.md").read_text())


def test_the_picture_shows_every_room_and_imports_go_down(
    picture: Picture, graph: grimp.ImportGraph
) -> None:
    rooms = {room for module in graph.modules if (room := room_of(module))}
    imports = {
        (importer, imported)
        for module in graph.modules
        if module not in FACES and (importer := room_of(module))
        for target in graph.find_modules_directly_imported_by(module)
        if (imported := room_of(target)) and importer != imported
    }
    assert {*picture.packages} == {*PACKAGES}
    assert len(imports) > 40
    assert picture.complaints(rooms, imports) == []


def test_an_agreeing_picture_is_not_complained_about() -> None:
    assert read_picture(PICTURE).complaints(ROOMS, IMPORTS) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        (("top", "c"), ("top", "a")),
        (("top", "d"), ("top", "b")),
        (("bottom", "y"), ("top", "d")),
    ],
)
def test_an_import_that_goes_up_is_found(importer: Room, imported: Room) -> None:
    found = read_picture(PICTURE).complaints(ROOMS, [*IMPORTS, (importer, imported)])
    assert found == [f"{'.'.join(importer)} imports {'.'.join(imported)}, which goes up"]


def test_a_room_that_is_missing_or_made_up_is_found() -> None:
    picture = read_picture(PICTURE)
    assert picture.complaints({*ROOMS, ("top", "new")}, IMPORTS) == ["top.new is missing"]
    assert picture.complaints(ROOMS - {("top", "c")}, IMPORTS) == [
        "top.c is drawn but does not exist"
    ]


def test_an_arrow_without_imports_and_a_circle_are_found() -> None:
    assert read_picture(PICTURE).complaints(ROOMS, IMPORTS[:-1]) == [
        "no import stands behind top --> bottom"
    ]
    circle = read_picture(PICTURE.replace("& d", "--> a"))
    assert {"a leads back to itself", "b leads back to itself"} <= set(
        circle.complaints(ROOMS, IMPORTS)
    )


def test_no_folder_holds_more_modules_than_one_can_read_by_name() -> None:
    folders = [
        folder
        for top in (*PACKAGES[:3], "client", "benchmarks", "tools", "examples")
        for folder in (ROOT / top, *(ROOT / top).rglob("*"))
        if folder.is_dir()
    ]
    sizes = {str(folder.relative_to(ROOT)): len([*folder.glob("*.py")]) for folder in folders}
    assert len(sizes) > 40
    assert {folder: size for folder, size in sizes.items() if size > MAX_MODULES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_it_is_for(package: str, graph: grimp.ImportGraph) -> None:
    rooms = [module for module in graph.modules if graph.find_children(module)]
    inits = [
        ROOT / ("client" if package == "folovllm_client" else "") / room.replace(".", "/")
        for room in rooms
        if room.split(".")[0] == package
    ]
    assert inits
    for folder in inits:
        assert (folder / "__init__.py").read_text().startswith('"""'), folder

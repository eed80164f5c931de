"""The picture of the rooms in docs/architecture.md, and the imports that it has to agree with.

The picture is a Mermaid flowchart. A subgraph is a package; a node in it is a room, that is a
folder or a loose module of the package, or several: `base[config · device]`. `[everything else]` is
what the package's other nodes leave over. An arrow from a package allows what any of its rooms
imports.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product, takewhile

Room = tuple[str, str]
"""A package and the name of a room in it."""

EVERYTHING_ELSE = "everything else"
_NODE = re.compile(r"(\w+)(?:\[(.+?)\])?")


@dataclass
class Picture:
    """What a flowchart says: which rooms there are, and which way its arrows lead."""

    packages: list[str] = field(default_factory=list)
    labels: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """By a node's id: its package, and the rooms it stands for."""
    arrows: set[tuple[str, str]] = field(default_factory=set)
    """From id to id; an id may be a package's."""

    def rooms(self) -> set[Room]:
        """Every room that is named."""
        named = {(package, name) for package, names in self.labels.values() for name in names}
        return {room for room in named if room[1] != EVERYTHING_ELSE}

    def complaints(self, rooms: Iterable[Room], imports: Iterable[tuple[Room, Room]]) -> list[str]:
        """Where rooms and imports of the code differ from the picture, one a line."""
        rooms = set(rooms)
        drawn, below = self.rooms(), _closure(self.arrows)
        found = [f"{package}.{name} is drawn but does not exist" for package, name in drawn - rooms]
        homes = {room: self._node(room) for room in rooms}
        found += [f"{'.'.join(room)} is missing" for room, node in homes.items() if node is None]
        used: set[tuple[str, str]] = set()
        for importer, imported in imports:
            upper, lower = homes.get(importer), homes.get(imported)
            if upper is None or lower is None or upper == lower:
                continue
            arrows = {
                (above, to)
                for above, to in product((upper, importer[0]), (lower, imported[0]))
                if above != to and to in below.get(above, ())
            }
            if not arrows:
                found.append(f"{'.'.join(importer)} imports {'.'.join(imported)}, which goes up")
            used |= arrows
        found += [f"no import stands behind {above} --> {to}" for above, to in self.arrows - used]
        found += [f"{node} leads back to itself" for node, to in below.items() if node in to]
        return sorted(found)

    def _node(self, room: Room) -> str | None:
        rest = None
        for node, (package, names) in self.labels.items():
            if package == room[0]:
                if room[1] in names:
                    return node
                rest = node if EVERYTHING_ELSE in names else rest
        return rest


def read_picture(text: str) -> Picture:
    """The first Mermaid flowchart of a Markdown text."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.strip() == "```mermaid")
    body = [line.strip() for line in takewhile(lambda line: line.strip() != "```", lines)]
    picture = Picture([line.split()[1] for line in body if line.startswith("subgraph ")])
    package = ""
    for line in body:
        if line.startswith("subgraph "):
            package = line.split()[1]
        elif line == "end":
            package = ""
        elif "-->" in line or package:
            _read_arrows(picture, package, line)
    return picture


def _read_arrows(picture: Picture, package: str, line: str) -> None:
    """Takes in `a --> b & c --> d`."""
    steps = [_read_nodes(picture, package, step) for step in line.split("-->")]
    for above, below in zip(steps, steps[1:], strict=False):
        picture.arrows |= set(product(above, below))


def _read_nodes(picture: Picture, package: str, step: str) -> list[str]:
    nodes: list[str] = []
    for part in step.split("&"):
        match = _NODE.fullmatch(part.strip())
        assert match is not None, f"not a node: {part}"
        node, label = match.groups()
        nodes.append(node)
        if node not in picture.packages and (label or node not in picture.labels):
            picture.labels[node] = package, tuple((label or node).split(" · "))
    return nodes


def _closure(arrows: Iterable[tuple[str, str]]) -> Mapping[str, set[str]]:
    """By node: all that its arrows lead to, however many there are between."""
    below: dict[str, set[str]] = {}
    for above, to in arrows:
        below.setdefault(above, set()).add(to)
    for middle in list(below):  # Warshall's algorithm
        for reached in below.values():
            if middle in reached:
                reached |= below[middle]
    return below

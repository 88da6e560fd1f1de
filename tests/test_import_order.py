"""Imports run one way, and no room before ``datasets`` loads torch: the table in docs/architecture.md, as a test."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cxr_mmdet"

FOUNDATION = frozenset(
    {"commands", "drawing", "errors", "files", "memory", "pages", "parallel", "recipes", "structures"}
)
"""These may import each other."""

ORDER = (
    FOUNDATION,
    {"dicom", "evaluation", "phantom"},
    {"annotations"},
    {"preparation"},
    {"datasets", "models"},
    {"engine"},
    {"inference"},
    {"batch"},
    {"pacs"},
    {"web"},
    {"doctor"},
    {"cli"},
    {"benchmarks"},
    {"tools"},
)
"""A room imports from the rooms left of its own place only; rooms of one place do not know each other."""

PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
TORCH_FREE = sorted(room for room, place in PLACE.items() if place < PLACE["datasets"])
BRIDGES = frozenset(
    {
        "backends/mmdet",
        "backends/torch",
        "checkpoint",
        "cpu_kernels/winograd",
        "export/describe",
        "export/export",
        "export/formats",
        "export/graphs",
        "export/queries",
    }
)
"""The files of ``inference`` that know torch or mmdet; the others predict with an exported model, without them."""

OUTSIDE = ("benchmarks", "tools")
"""Folders beside the package."""

FRAMEWORKS = {"torch", "torchvision", "mmdet", "mmcv", "mmengine"}


def modules(room: str) -> list[Path]:
    """Return the files of a room."""
    if room in OUTSIDE:
        return sorted((ROOT / room).glob("*.py"))
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported(source: str) -> Iterator[str]:
    """Yield the dotted names of everything a file imports, at the top, in a function or for type checking."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which room it reaches into"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(source: str) -> set[str]:
    names = (name.split(".") for name in imported(source))
    rooms = set()
    for parts in names:
        if parts[0] in OUTSIDE:
            rooms.add(parts[0])
        elif parts[0] == "cxr_mmdet" and len(parts) > 1 and parts[1] in PLACE:
            rooms.add(parts[1])
    return rooms


def wrong_way(room: str, source: str) -> set[str]:
    """Return the rooms that a file of ``room`` imports though they do not stand left of it."""
    friends = FOUNDATION if room in FOUNDATION else {room}
    return {other for other in rooms_imported(source) - friends if PLACE[other] >= PLACE[room]}


def test_the_architecture_page_lists_the_rooms_in_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("<!-- rooms -->\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table]
    assert [set(row) for row in rows] == [set(rooms) for rooms in ORDER]


def test_every_room_has_its_place():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files | folders | set(OUTSIDE) == set(PLACE)


@pytest.mark.parametrize("room", sorted(PLACE))
def test_imports_run_one_way(room: str):
    wrong = {str(path.relative_to(ROOT)): wrong_way(room, path.read_text(encoding="utf-8")) for path in modules(room)}
    assert wrong
    assert {path: rooms for path, rooms in wrong.items() if rooms} == {}


@pytest.mark.parametrize("room", TORCH_FREE)
def test_no_file_left_of_datasets_names_a_framework(room: str):
    named = {
        str(path.relative_to(ROOT)): {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
        for path in modules(room)
    }
    assert {path: names & FRAMEWORKS for path, names in named.items() if names & FRAMEWORKS} == {}


def test_prediction_with_an_exported_model_names_no_framework():
    folder = PACKAGE / "inference"
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in modules("inference")}
    assert set(paths) >= BRIDGES
    named = {
        stem: {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))} & FRAMEWORKS
        for stem, path in paths.items()
        if stem not in BRIDGES
    }
    assert {stem: names for stem, names in named.items() if names} == {}


def test_one_module_starts_parallel_work():
    starts = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "joblib" in {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
    }
    assert starts == {"parallel.py"}


def test_no_module_left_of_datasets_loads_a_framework():
    """Through a third package, say: one process imports them all, and tells which one brought a framework along."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in TORCH_FREE
        for path in modules(room)
    ]
    script = (
        "import importlib, json, sys\n"
        "brought, loaded = {}, set()\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        f"    new = sorted(({FRAMEWORKS!r} & set(sys.modules)) - loaded)\n"
        "    loaded.update(new)\n"
        "    brought.update({name: new} if new else {})\n"
        "print(json.dumps(brought))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(names) > 30
    assert json.loads(done.stdout.splitlines()[-1]) == {}


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("evaluation", "from cxr_mmdet.engine.config import load_config", {"engine"}),
        ("evaluation", "def f():\n    from cxr_mmdet import engine", {"engine"}),
        ("evaluation", "import cxr_mmdet.engine.config as c", {"engine"}),
        ("evaluation", "if TYPE_CHECKING:\n    from cxr_mmdet.dicom import source", {"dicom"}),
        ("evaluation", "from cxr_mmdet.evaluation.coco import x\nfrom cxr_mmdet import structures", set()),
        ("drawing", "from cxr_mmdet import structures", set()),
        ("structures", "from cxr_mmdet import dicom", {"dicom"}),
        ("cli", "from benchmarks import pipeline", {"benchmarks"}),
        ("engine", "from benchmarks import pipeline", {"benchmarks"}),
    ],
)
def test_the_check_itself(room: str, source: str, expected: set[str]):
    assert wrong_way(room, source) == expected


def test_the_check_refuses_relative_imports():
    with pytest.raises(AssertionError, match="relative"):
        list(imported("from . import coco"))


def test_no_two_public_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}

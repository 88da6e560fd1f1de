"""The README's walk-through, run as it stands there, on fewer and smaller images."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
WALK_THROUGH = re.compile(r"<!-- walk-through -->\n```sh\n(.*?)```", re.DOTALL)
SHRINK = {"phantom": ["--images", "16", "--size", "160", "--abnormal-share", "0.9"]}
TINY = [
    "train_cfg.max_iters=2",
    "train_cfg.val_interval=2",
    "default_hooks.checkpoint.interval=2",
    "train_dataloader.batch_size=2",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "train_dataloader.dataset.dataset.pipeline.4.scales=[(96,96)]",
    "val_dataloader.dataset.pipeline.2.scale=(96,96)",
    "test_dataloader.dataset.pipeline.2.scale=(96,96)",
]


def walk_through() -> list[list[str]]:
    (block,) = WALK_THROUGH.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def shrunk(command: list[str]) -> list[str]:
    """Return the command on this Python, with sizes a test can afford in the place of its own."""
    assert command[0] == "python", command
    rest = [str(ROOT / command[1]) if command[1].startswith("tools/") else command[1], *command[2:]]
    for name, options in SHRINK.items():
        if name in command:
            for option, value in zip(options[::2], options[1::2], strict=True):
                if option in rest:
                    place = rest.index(option)
                    del rest[place : place + 2]
                rest += [option, value]
    if command[1] in {"tools/train.py", "tools/test.py"}:
        rest += ["--cfg-options", *TINY]
    return [sys.executable, *rest]


@pytest.mark.slow
def test_the_walk_through_runs(tmp_path: Path):
    commands = walk_through()
    assert {command[1] for command in commands} >= {
        "tools/prepare_data.py",
        "tools/train.py",
        "tools/test.py",
        "tools/evaluate.py",
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for command in commands:
        done = subprocess.run(shrunk(command), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-3000:]}"


def test_files_of_a_run_have_the_names_that_training_gives_them():
    """The page on Python named a config.py and a best.pth, which no run writes."""
    found = 0
    for page in PAGES:
        for run, name in re.findall(r"work_dirs/(\w+)/(\w+\.(?:pth|py))\b", page.read_text(encoding="utf-8")):
            assert name == f"{run}.py" or re.fullmatch(r"(best_\w+_)?iter_\d+\.pth", name), f"{page.name}: {run}/{name}"
            found += 1
    assert found >= 2


def test_every_file_the_readme_and_docs_point_to_is_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", text)
        places = [page.parent / (first or second) for first, second in links if first or second]
        places += [ROOT / path for path in re.findall(r"`((?:tests|tools|docs|cxr_mmdet)/[a-z0-9_/]+\.\w+)`", text)]
        for place in places:
            assert place.exists(), f"{page.name} points to {place}, which is not there"


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_section_the_readme_and_docs_point_to_is_there():
    for page in PAGES:
        for name, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            assert section in headings(page.parent / name if name else page), f"{page.name}: {name}#{section}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_the_readme_and_docs_name_exists(page: Path):
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    for line in "\n".join(code).replace("\\\n", " ").splitlines():
        for tool, words in re.findall(r"(?:tools/(\w+)\.py|\bcxr)((?: +[^\s;|&#]+)+)", line):
            name, *rest = [tool, *words.split()] if tool else words.split()
            if name.startswith("-"):
                continue
            command = _command(name)
            verbs = getattr(command, "commands", {})
            command = verbs.get(rest[0] if rest and rest[0] in verbs else "run", command)
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
            named = {word.partition("=")[0] for word in rest if word.startswith("--")}
            assert named <= known, f"{page.name}: {line.strip()}"


def _command(tool: str) -> Any:
    room = "benchmarks.cli" if tool == "benchmark" else f"cxr_mmdet.cli.{tool}"
    return typer.main.get_command(importlib.import_module(room).app)

"""The wheel carries what `pip install` alone needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_config_template_and_weights_file(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"cxr_mmdet/configs/{path.relative_to(ROOT / 'configs')}" for path in ROOT.glob("configs/**/*.py")}
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("cxr_mmdet/**/templates/*")}
    assert len(configs) > 10
    assert len(templates) > 0
    weights = {f"cxr_mmdet/weights/retina_small{suffix}" for suffix in (".safetensors", ".md")}
    assert configs | templates | weights <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_a_recipe_is_found_in_an_installed_wheel(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "from cxr_mmdet.engine.config import load_config; print(load_config('retina_5cls').filename)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "cxr_mmdet" / "configs" / "retina_5cls.py")


def test_a_config_of_ones_own_inherits_a_recipe_of_an_installed_wheel(wheel: Path, tmp_path: Path):
    """From a copy of the package without the checkout's configs, in another folder."""
    installed, own = tmp_path / "site", tmp_path / "own"
    zipfile.ZipFile(wheel).extractall(installed)
    own.mkdir()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from cxr_mmdet.recipes import copy_of, config_folder\n"
        "assert str(config_folder()).startswith(sys.argv[1]), config_folder()\n"
        "open('mine.py', 'w').write(copy_of('retina_small'))\n"
        "open('child.py', 'w').write('_base_ = \"cxr::faster_rcnn_5cls\"\\nclasses = (\"A\", \"B\")\\n')\n"
        "from cxr_mmdet.engine.config import load_config\n"
        "assert load_config('mine.py', work_dir='w').to_dict() == load_config('retina_small', work_dir='w').to_dict()\n"
        "print(load_config('child.py').model.roi_head.bbox_head.num_classes)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(installed)], cwd=own, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "2"


def test_no_oldest_version_has_the_holes_that_the_documentation_names():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = text[: text.index("[project.scripts]")]
    bounds: dict[str, list[Version]] = {}
    for quoted in re.findall(r'"([A-Za-z0-9_-]+(?:\[[^"]*\])?[<>=][^"]*)"', lists):
        requirement = Requirement(quoted)
        lowest = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==")]
        bounds.setdefault(requirement.name, []).extend(lowest)
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    table = page[page.index("### Oldest versions of what it builds on") :]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([\d.]+) \|", table, re.MULTILINE)
    assert len(rows) > 10
    assert {"torch", "pillow", "jinja2", "gradio", "starlette"} <= {name for name, _ in rows}
    for name, lowest in rows:
        assert bounds.get(name), f"pyproject.toml bounds {name} nowhere"
        assert min(bounds[name]) >= Version(lowest), name

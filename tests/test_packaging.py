"""The wheel carries what `pip install` alone needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_config_and_template(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"cxr_mmdet/configs/{path.relative_to(ROOT / 'configs')}" for path in ROOT.glob("configs/**/*.py")}
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("cxr_mmdet/**/templates/*")}
    assert len(configs) > 10
    assert len(templates) > 0
    assert configs | templates <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]


def test_a_recipe_is_found_in_an_installed_wheel(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = "from cxr_mmdet.engine.config import load_config; print(load_config('retina_5cls').filename)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(tmp_path / "cxr_mmdet" / "configs" / "retina_5cls.py")

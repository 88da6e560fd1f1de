"""One class a choice, light enough for ``--help``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cxr_mmdet

PACKAGE = Path(cxr_mmdet.__file__).parent
HEAVY = ("numpy", "torch", "pandas", "cv2")


def enums() -> list[tuple[str, str]]:
    """Return file and name of every enumeration of the package."""
    return [
        (str(path.relative_to(PACKAGE)), node.name)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in node.bases)
    ]


def test_no_two_enumerations_of_one_name():
    assert [name for name, count in Counter(name for _, name in enums()).items() if count > 1] == []


def test_commands_define_no_choices_that_the_library_has_too():
    assert [name for path, name in enums() if path.startswith("cli") and name != "Launcher"] == []


def test_importing_the_enumerations_loads_nothing_heavy():
    code = f"import sys, cxr_mmdet.structures.enums; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"

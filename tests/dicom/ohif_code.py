"""OHIF's own code for structured reports, run under node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cxr_mmdet.dicom.report import to_bytes

if TYPE_CHECKING:
    import pydicom

OHIF = Path(__file__).with_name("ohif")
KEY = hashlib.sha256(b"".join((OHIF / name).read_bytes() for name in ("package.json", "package-lock.json")))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
PACKAGES = CACHE / "cxr-mmdet-tests" / f"npm-{KEY.hexdigest()[:12]}"


needs_ohif = pytest.mark.skipif(
    shutil.which("node") is None or not PACKAGES.is_dir(),
    reason=f"needs node and OHIF's packages in {PACKAGES.name}; install them with tests/dicom/ohif/install.sh",
)


def in_ohif(folder: Path, reports: list[pydicom.Dataset], images: list[pydicom.Dataset], **options: Any) -> list[dict]:
    """Return what OHIF's code makes of each report in a study that also holds these images, in their order."""
    paths: dict[str, list[str]] = {"reports": [], "images": []}
    for kind, datasets in (("reports", reports), ("images", images)):
        for number, dataset in enumerate(datasets):
            path = folder / f"{kind}-{number}.dcm"
            path.write_bytes(to_bytes(dataset))
            paths[kind].append(str(path))
    request = folder / "request.json"
    request.write_text(json.dumps(paths | options))
    command = ["node", str(OHIF / "viewer.mjs"), str(PACKAGES), str(request)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)

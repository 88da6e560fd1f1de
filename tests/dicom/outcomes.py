# ruff: noqa: T201 -- a script that prints the table of docs/dicom.md
"""What comes of every DICOM file that pydicom and pydicom-data ship; ``python tests/dicom/outcomes.py`` prints it."""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path

import pydicom

from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.errors import DicomError

NO_DICOM = frozenset({".dump", ".icc", ".json", ".md", ".py", ".pyc", ".txt", ".zip", ".gz", ".xml"})


def shipped_files() -> dict[str, Path]:
    """Every DICOM file of both packages, by its path in the package; pydicom-data may be absent."""
    folders = [Path(pydicom.__file__).parent / "data"]
    try:
        import data_store
    except ImportError:
        pass
    else:
        folders.append(Path(data_store.__file__).parent / "data")
    return {
        path.relative_to(folder).as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in NO_DICOM and path.name != "README"
    }


def outcome(path: Path) -> str:
    """Return how the file was shown, or the sentence that refuses it, without the file's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            radiograph = read_radiograph(path, name="FILE")
        except DicomError as error:
            return str(error).removeprefix("FILE: ")
    return f"shown, {radiograph.photometric}: {radiograph.windowing}"


def table(outcomes: dict[str, str]) -> str:
    """Return the outcome of each file as a Markdown table, files of one outcome in one row."""
    files: dict[str, list[str]] = defaultdict(list)
    for name, what in outcomes.items():
        files[what].append(Path(name).name)
    rows = ["| Outcome | Files | Names |", "| --- | ---: | --- |"]
    for what, names in sorted(files.items(), key=lambda pair: (not pair[0].startswith("shown"), pair[0])):
        rows.append(f"| {what} | {len(names)} | {_listed(names)} |")
    return "\n".join(rows)


def _listed(names: list[str], shown: int = 12) -> str:
    names = sorted(set(names))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(f"`{name}`" for name in names[:shown]) + more


if __name__ == "__main__":
    print(table({name: outcome(path) for name, path in shipped_files().items()}))

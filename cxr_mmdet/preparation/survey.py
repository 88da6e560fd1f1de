"""What is in a folder of radiographs, found without writing anything: before a build, or after one has failed."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cxr_mmdet.dicom.attributes import text_of
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import parse_dataset, read_bytes
from cxr_mmdet.errors import DatasetError, DicomError
from cxr_mmdet.preparation.images import looks_like_a_radiograph
from cxr_mmdet.preparation.parallel import map_unordered
from cxr_mmdet.preparation.pseudonyms import PseudonymKey
from cxr_mmdet.preparation.table_match import TableMatch, match_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from cxr_mmdet.dicom.radiograph import Radiograph

PROPERTIES = ("syntax", "photometric", "bits", "size", "window", "modality", "view", "burned_in_annotation")

UNSTATED = "not stated"

_PICTURES = ("PNG", "JPEG", "TIFF")


@dataclass(frozen=True)
class FileFacts:
    """What one file is; ``reason`` says why it cannot be shown, then the rest is empty.

    Attributes:
        name: the path below the surveyed folder.
        reason: one sentence, None when the file can be shown.
        properties: value of each of ``PROPERTIES``.
        warnings: what was odd about it.
        size_hw: rows and columns.
        patient: the pseudonym of its Patient ID under the key of this survey.
        pixel_hash: equal for pictures that look the same, however they are encoded.
    """

    name: str
    reason: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    size_hw: tuple[int, int] = (0, 0)
    patient: str | None = None
    pixel_hash: str | None = None


@dataclass(frozen=True)
class Survey:
    """What a folder holds; files are named by their path below it.

    Attributes:
        readable: files that can be shown.
        other_files: files that neither name nor content make a radiograph.
        counts: for each of ``PROPERTIES``, how many readable files have which value, the most frequent first.
        warnings: how many readable files came with which warning.
        unreadable: file → why it cannot be shown.
        identical: groups of at least two files with the same picture.
        burned_in: files that say that text is burnt into their pixels.
        patients: how many different Patient IDs there are.
        without_patient: readable files that state none.
        several: the files of each patient who has more than one, by a name made of the first.
        table: how the readers' table fits; None where there is none.
    """

    readable: int
    other_files: int
    counts: dict[str, dict[str, int]]
    warnings: dict[str, int]
    unreadable: dict[str, str]
    identical: tuple[tuple[str, ...], ...]
    burned_in: tuple[str, ...]
    patients: int
    without_patient: int
    several: dict[str, tuple[str, ...]]
    table: TableMatch | None

    @property
    def is_ready(self) -> bool:
        """Return whether a build of this folder would fail on no file and on no row."""
        return not self.unreadable and (self.table is None or self.table.is_complete)


def survey_folder(src: Path, *, jobs: int | None = 1, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Return what is in ``src`` and the folders below it; every picture is decoded, nothing is written.

    Args:
        src: the folder; its ``train.csv`` is compared with the radiographs in ``train/``, or in ``src`` itself.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of files just dealt with, and of all.

    Raises:
        DatasetError: no file in it is a radiograph.
    """
    files = sorted(path for path in src.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(src)))
    radiographs = [path for path in files if looks_like_a_radiograph(path)]
    if not radiographs:
        raise DatasetError(
            f"{src}: holds no radiograph, nor do its folders; got {len(files)} other files, expected DICOM, PNG, "
            "JPEG or TIFF"
        )
    key = PseudonymKey.random()
    tasks = [(path, path.relative_to(src).as_posix(), key) for path in radiographs]
    report = progress or (lambda done, total: None)
    facts = []
    report(0, len(tasks))
    with closing(map_unordered(examine_file, tasks, jobs=jobs)) as results:
        for each in results:
            facts.append(each)
            report(1, len(tasks))
    facts.sort(key=lambda each: each.name)
    table = match_table(src, {each.name: each.size_hw for each in facts if each.reason is None})
    return summarise(facts, other_files=len(files) - len(radiographs), table=table)


def examine_file(path: Path, name: str, key: PseudonymKey) -> FileFacts:
    """Return what one file is, after decoding its picture; messages call it ``name``."""
    try:
        content = read_bytes(path)
        with warnings.catch_warnings():
            # pydicom remarks on every oddity; what matters of it is in the radiograph's own warnings.
            warnings.simplefilter("ignore")
            radiograph = read_radiograph(content, name=name)
            is_picture = radiograph.transfer_syntax in _PICTURES
            properties = _picture_properties(radiograph) if is_picture else _properties(radiograph, content, name)
    except DicomError as error:
        return FileFacts(name, reason=str(error).removeprefix(f"{path}: ").removeprefix(f"{name}: "))
    return FileFacts(
        name,
        properties=properties,
        warnings=radiograph.warnings,
        size_hw=radiograph.size_hw,
        patient=key.pseudonym(radiograph.patient_id) if radiograph.patient_id else None,
        pixel_hash=_pixel_hash(radiograph.pixels),
    )


def summarise(facts: Sequence[FileFacts], *, other_files: int = 0, table: TableMatch | None = None) -> Survey:
    """Return the survey that the facts of all files, sorted by name, add up to."""
    shown = [each for each in facts if each.reason is None]
    by_patient = _groups((each.patient, each.name) for each in shown)
    by_picture = _groups((each.pixel_hash, each.name) for each in shown)
    return Survey(
        readable=len(shown),
        other_files=other_files,
        counts={key: _counted(each.properties[key] for each in shown) for key in PROPERTIES},
        warnings=_counted(warning for each in shown for warning in each.warnings),
        unreadable={each.name: each.reason for each in facts if each.reason is not None},
        identical=tuple(sorted(names for names in by_picture.values() if len(names) > 1)),
        burned_in=tuple(each.name for each in shown if each.properties["burned_in_annotation"] == "YES"),
        patients=len(by_patient),
        without_patient=sum(each.patient is None for each in shown),
        several={f"patient-of-{names[0]}": names for names in sorted(by_patient.values()) if len(names) > 1},
        table=table,
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _properties(radiograph: Radiograph, content: bytes, name: str) -> dict[str, str]:
    header = parse_dataset(content, name)
    height, width = radiograph.size_hw
    sign = ", signed" if text_of(header, "PixelRepresentation") == "1" else ""
    allocated = text_of(header, "BitsAllocated")
    return {
        "syntax": radiograph.transfer_syntax,
        "photometric": radiograph.photometric,
        "bits": f"{text_of(header, 'BitsStored') or allocated} of {allocated}{sign}",
        "size": f"{width} x {height}",
        "window": radiograph.windowing,
        "modality": text_of(header, "Modality") or UNSTATED,
        "view": text_of(header, "ViewPosition") or UNSTATED,
        "burned_in_annotation": text_of(header, "BurnedInAnnotation").upper() or UNSTATED,
    }


def _picture_properties(radiograph: Radiograph) -> dict[str, str]:
    height, width = radiograph.size_hw
    return dict.fromkeys(PROPERTIES, UNSTATED) | {
        "syntax": f"none, {radiograph.transfer_syntax}",
        "photometric": radiograph.photometric,
        "size": f"{width} x {height}",
        "window": radiograph.windowing,
    }


def _pixel_hash(pixels: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _groups(pairs: Iterable[tuple[str | None, str]]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        if key is not None:
            groups[key].append(name)
    return {key: tuple(names) for key, names in groups.items()}


def _counted(values: Iterable[str]) -> dict[str, int]:
    counts = Counter(values)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

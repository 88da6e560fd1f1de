"""Another split of a prepared folder: its images and readers' boxes stay, its COCO files are written again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from cxr_mmdet.annotations.reader_consensus import ReaderModel
from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.files import sole_use, write_json
from cxr_mmdet.preparation.annotate import ANNOTATIONS, PARAMETERS_NAME, READERS_NAME, annotate
from cxr_mmdet.preparation.folder import MANIFEST_NAME
from cxr_mmdet.preparation.options import BY_IMAGE, BY_PATIENT
from cxr_mmdet.preparation.prepared import PreparedFolder, read_manifest
from cxr_mmdet.preparation.report import REPORT_NAME, write_report
from cxr_mmdet.structures.enums import SplitMethod

if TYPE_CHECKING:
    from pathlib import Path

    from cxr_mmdet.preparation.annotate import Annotated
    from cxr_mmdet.preparation.options import SplitOptions


def resplit(folder: Path, split: SplitOptions) -> Annotated:
    """Split the images of ``folder`` again and write its COCO files, manifest and report again.

    Nothing changes when the split is refused.

    Args:
        folder: a finished prepared folder.
        split: how.

    Raises:
        UsageError: an option makes no sense with this folder, or a build or another split uses it.
        DatasetError: the folder is not finished, or cannot be divided so.
    """
    split.check()
    read_manifest(folder)  # or the lock would make a folder that is not there
    with sole_use(folder, "split a copy of it"):
        return _resplit(folder, split)


def _resplit(folder: Path, split: SplitOptions) -> Annotated:
    """Split as :func:`resplit` says; what is read stays, since no other process changes the folder meanwhile."""
    prepared = PreparedFolder.load(folder)
    column = split.group_column
    kept = prepared.group_column
    if column and kept != column:
        expected = "patient or image" if kept is None else f"{kept}, patient or image"
        raise UsageError(
            f"--group-by {column}: {folder} keeps no such column; expected {expected}, or build it again with this "
            "option."
        )
    if kept and split.group_by == BY_PATIENT and not any(image.patient for image in prepared.images.values()):
        raise UsageError(
            f"--group-by {BY_PATIENT}: no radiograph of {folder} states a Patient ID; pass --group-by {kept}, its "
            f"column of the table, or --group-by {BY_IMAGE}."
        )
    if split.split is SplitMethod.AUTO:
        split = replace(split, split=SplitMethod.GIVEN if prepared.facts.split_of else SplitMethod.RANDOM)
    options = replace(prepared.options, **asdict(split))
    named = set(prepared.rows["image_id"])
    images = [image for image_id, image in prepared.images.items() if image_id in named or options.unread_as_normal]
    missing = sorted(named.difference(prepared.images))
    if missing:
        raise DatasetError(
            f"{folder}: {counted(len(missing), 'image')} of {ANNOTATIONS}/{READERS_NAME} missing, such as "
            f"{missing[0]}.png; build it again with tools/prepare_data.py build --force."
        )
    models = {}
    for label_set in prepared.label_sets:
        parameters = folder / ANNOTATIONS / PARAMETERS_NAME.format(label_set.name)
        if parameters.is_file():
            models[label_set.name] = ReaderModel.load(parameters, ())
    options = replace(options, reader_model=None)
    annotated = annotate(
        folder,
        prepared.rows,
        images,
        prepared.label_sets,
        options,
        facts=prepared.facts,
        models=models,
    )
    manifest = prepared.manifest | annotated.manifest | {"parameters": options.to_json()}
    if kept:  # after a split by something else, its name is nowhere in the parameters
        manifest["group_column"] = kept
    manifest["notes"] = {**prepared.manifest.get("notes", {}), "split": list(annotated.notes)}
    # At once: a folder without it is not finished, and only a build could finish it.
    (folder / REPORT_NAME).unlink(missing_ok=True)
    write_json(folder / MANIFEST_NAME, manifest, indent=2)
    write_report(folder, manifest)
    return annotated

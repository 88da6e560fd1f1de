"""Preparation of images, and the index beside them that says which are finished and what they were made from."""

from __future__ import annotations

import json
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import pydicom

from cxr_mmdet.dicom.attributes import text_of
from cxr_mmdet.dicom.images import image_format
from cxr_mmdet.dicom.radiograph import read_radiograph
from cxr_mmdet.dicom.source import parse_dataset, quiet_pydicom
from cxr_mmdet.errors import DatasetError, DicomError, counted
from cxr_mmdet.files import atomic_path, write_json
from cxr_mmdet.parallel import map_unordered
from cxr_mmdet.preparation.pseudonyms import PseudonymKey, join_names
from cxr_mmdet.structures.radiograph_files import HEAD_BYTES, ChangeStamp, is_dicom, read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from cxr_mmdet.dicom.radiograph import Radiograph


INDEX_NAME = "images.json"

RENDERING_VERSION = 2
"""Raised whenever the same file gives other pixels than before, so that prepared folders are rebuilt."""


@dataclass(frozen=True)
class PreparedImage:
    """One finished image.

    Attributes:
        image_id: name of the image without suffix.
        path: the PNG file.
        size_hw: height and width of the image.
        original_size_hw: height and width of the source; boxes scale by the ratio, per axis.
        patient: pseudonym of the Patient ID, equal for images of one patient; None when the source names none.
        windowing: how values became grey levels.
        warnings: what was odd about the source.
        burned_in_annotation: whether the source says that text is burnt into the pixels; None when it says nothing.
        exif_orientation: EXIF orientation that the source was turned upright from; 1 for not at all.
    """

    image_id: str
    path: Path
    size_hw: tuple[int, int]
    original_size_hw: tuple[int, int]
    patient: str | None
    windowing: str
    warnings: tuple[str, ...]
    burned_in_annotation: bool | None
    exif_orientation: int = 1

    @classmethod
    def from_entry(cls, image_id: str, path: Path, entry: Mapping[str, Any]) -> PreparedImage:
        """Return the image that an entry of the index describes."""
        return cls(
            image_id=image_id,
            path=path,
            size_hw=_pair(entry["size_hw"]),
            original_size_hw=_pair(entry["original_size_hw"]),
            patient=entry["patient"],
            windowing=entry["windowing"],
            warnings=tuple(entry["warnings"]),
            burned_in_annotation=entry["burned_in_annotation"],
            exif_orientation=entry["exif_orientation"],
        )


class ImageIndex:
    """The finished images of one prepared folder, as of its ``images.json``."""

    def __init__(self, path: Path, made_by: dict[str, Any], entries: dict[str, Any], key_name: str | None) -> None:
        self._path = path
        self._made_by = made_by
        self._entries = entries
        self._key_name = key_name

    @classmethod
    def load(
        cls, path: Path, *, short_edge: int, reduced_jpeg2000: bool = False, key_name: str | None = None
    ) -> ImageIndex:
        """Read the index; one made with other parameters or by another version counts as empty.

        Args:
            path: of ``images.json``.
            short_edge: of this run.
            reduced_jpeg2000: of this run.
            key_name: of the key that this run makes pseudonyms with; None for one that ends with it.

        Raises:
            DatasetError: the file is not an index.
        """
        made_by: dict[str, Any] = {"rendering_version": RENDERING_VERSION, "short_edge": short_edge}
        if reduced_jpeg2000:
            made_by["reduced_jpeg2000"] = "aligned"  # other values: images that stand up to a pixel elsewhere
        if not path.is_file():
            return cls(path, made_by, {}, key_name)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = document.pop("images")
            if document != made_by:
                entries = {}
        except (AttributeError, ValueError, KeyError, TypeError):
            raise DatasetError(f"{path}: is not an index of prepared images; remove it to prepare them again") from None
        return cls(path, made_by, entries, key_name)

    def get(self, image_id: str, source: Path, out_dir: Path) -> PreparedImage | None:
        """Return the finished image, or None when it is missing or its source has changed since."""
        entry = self._entries.get(image_id)
        path = out_dir / f"{image_id}.png"
        try:
            if entry is None or not path.is_file() or ChangeStamp(**entry["source"]) != ChangeStamp.of(source):
                return None
        except OSError:
            return None
        return PreparedImage.from_entry(image_id, path, entry)

    def knows_patient(self, image_id: str) -> bool:
        """Return whether an image's pseudonym was made with this run's key; else it must be made again."""
        return self._key_name is not None and self._entries[image_id].get("patient_keyed_by") == self._key_name

    def put(self, image: PreparedImage, state: ChangeStamp) -> None:
        """Note that an image is finished."""
        entry = asdict(image)
        del entry["image_id"], entry["path"]
        self._entries[image.image_id] = entry | {"source": state._asdict(), "patient_keyed_by": self._key_name}

    def publish(self, patients: Mapping[str, str | None]) -> None:
        """Write what stands for the patients of these images."""
        for image_id, patient in patients.items():
            self._entries[image_id] |= {"patient": patient, "patient_keyed_by": self._key_name}

    def drop(self, image_id: str) -> None:
        """Forget an image, if it is known."""
        self._entries.pop(image_id, None)

    def save(self) -> float:
        """Write the index beside the images, and return the seconds after which to do it again."""
        began = time.monotonic()
        write_json(self._path, self._made_by | {"images": self._entries}, indent=1)
        return max(_SAVE_SECONDS, _SAVE_SHARE * (time.monotonic() - began))


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second


PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
"""Training decodes these again and again: of OpenCV's settings this decodes fastest, at 1.06 times the least size."""

if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # since OpenCV 4.12; before, decoding takes 1.5 times as long
    PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]

_SAVE_SECONDS = 10.0
"""Least time between two savings of the index."""

_SAVE_SHARE = 50
"""Saving takes at most one part in so many of the time; after each 200 of 15,000 small images it took a third."""

_UNFINISHED_SECONDS = 600
"""Age in seconds beyond which a temporary file is a leftover; no image takes so long to write."""


@dataclass(frozen=True)
class Failure:
    """A radiograph that could not be prepared; ``reason`` is the whole sentence for the user."""

    image_id: str
    path: Path
    reason: str


@dataclass(frozen=True)
class PreparedImages:
    """Result of preparing a folder: ``images`` and ``failures`` sorted by image id, ``reused`` were already there."""

    images: tuple[PreparedImage, ...]
    failures: tuple[Failure, ...]
    reused: int


def prepare_images(
    sources: Mapping[str, Path],
    out_dir: Path,
    *,
    short_edge: int = 1024,
    reduced_jpeg2000: bool = False,
    jobs: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    key: PseudonymKey | None = None,
    patients: Mapping[str, str] | None = None,
) -> PreparedImages:
    """Render each radiograph to ``out_dir/<image_id>.png`` and return what is there, and what failed.

    A second call renders only what is missing, changed at its source, or was made with other parameters, by
    ``images.json`` beside ``out_dir``; it is also kept when the call is interrupted. Patient IDs of images that are
    there already are read again, unless the same kept key made their pseudonyms.

    Args:
        sources: image id → file.
        out_dir: made where needed.
        short_edge: pixels of the shorter side at most; 0 keeps the full size. Images are never enlarged.
        reduced_jpeg2000: decode JPEG 2000 no larger than ``short_edge`` needs: faster, not to the same pixels.
        jobs: worker processes; None leaves it to a ``worker_pool`` around the call.
        progress: called with the number of radiographs just dealt with, first with those that were already there, and
            of all.
        key: of the patients' pseudonyms; a random one by default, forgotten at the end.
        patients: image id → patient by the annotations; images are one patient's where these or the files say so.

    Raises:
        DatasetError: the index of an earlier run is damaged, or an image cannot be written.
        CxrError: a worker was killed.
    """
    _remove_unfinished(out_dir)
    key = key or PseudonymKey.random()
    index = ImageIndex.load(
        out_dir.parent / INDEX_NAME, short_edge=short_edge, reduced_jpeg2000=reduced_jpeg2000, key_name=key.name
    )
    done: dict[str, PreparedImage] = {}
    todo: list[tuple[str, Path]] = []
    for image_id, path in sorted(sources.items()):
        known = index.get(image_id, path, out_dir)
        if known is None:
            todo.append((image_id, path))
        else:
            done[image_id] = known
    reused = len(done)
    report = progress or (lambda done, total: None)
    report(reused, len(sources))
    failures: list[Failure] = []
    try:
        again = [(image_id, sources[image_id], key) for image_id in done if not index.knows_patient(image_id)]
        with closing(map_unordered(read_patient, again, jobs=jobs)) as read:
            for image_id, patient in read:
                done[image_id] = replace(done[image_id], patient=patient)
        tasks = [(image_id, path, out_dir, short_edge, reduced_jpeg2000, key) for image_id, path in todo]
        with closing(map_unordered(prepare_image, tasks, jobs=jobs)) as results:
            save_at = time.monotonic() + _SAVE_SECONDS
            for result in results:
                if isinstance(result, Failure):
                    failures.append(result)
                    # What an earlier version of the file gave is no longer true.
                    (out_dir / f"{result.image_id}.png").unlink(missing_ok=True)
                    index.drop(result.image_id)
                else:
                    image, state = result
                    done[image.image_id] = image
                    index.put(image, state)
                if time.monotonic() >= save_at:
                    save_at = index.save() + time.monotonic()
                report(1, len(sources))
    finally:
        named = {image_id: key.pseudonym(patient) for image_id, patient in (patients or {}).items()}
        published = key.published(join_names({name: image.patient for name, image in done.items()}, named))
        index.publish(published)
        index.save()
    return PreparedImages(
        images=tuple(replace(done[image_id], patient=published[image_id]) for image_id in sorted(done)),
        failures=tuple(sorted(failures, key=lambda failure: failure.image_id)),
        reused=reused,
    )


def prepare_image(
    image_id: str,
    path: Path,
    out_dir: Path,
    short_edge: int,
    reduced_jpeg2000: bool = False,
    key: PseudonymKey | None = None,
) -> tuple[PreparedImage, ChangeStamp] | Failure:
    """Render one radiograph; the source's state is taken before reading, so that a change meanwhile is seen later."""
    try:
        state = ChangeStamp.of(path)
        radiograph, pixels = read_to_size(path, short_edge, reduced_jpeg2000=reduced_jpeg2000)
    except DicomError as error:
        return Failure(image_id, path, str(error))
    except OSError as error:
        return Failure(image_id, path, f"{path}: cannot be read ({error.strerror})")
    target = out_dir / f"{image_id}.png"
    write_grey_png(target, pixels)
    height, width = pixels.shape
    image = PreparedImage(
        image_id=image_id,
        path=target,
        size_hw=(height, width),
        original_size_hw=radiograph.size_hw,
        patient=(key or PseudonymKey.random()).pseudonym(radiograph.patient_id) if radiograph.patient_id else None,
        windowing=radiograph.windowing,
        warnings=radiograph.warnings,
        burned_in_annotation=radiograph.burned_in_annotation,
        exif_orientation=radiograph.exif_orientation,
    )
    return image, state


def read_patient(image_id: str, path: Path, key: PseudonymKey) -> tuple[str, str | None]:
    """Return the image id and the pseudonym of its file's Patient ID, without reading the pixels where possible.

    Raises:
        DicomError: the file, which was read before, is damaged now.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not is_dicom(head) and image_format(head) is not None:
            return image_id, None
        with quiet_pydicom():
            header: pydicom.Dataset = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["PatientID", "Rows"], force=True
            )
        is_whole = "Rows" in header
    # What pydicom stumbles over anyhow, the project's own reader gets past.
    except Exception:
        is_whole = False
    if not is_whole:
        header = parse_dataset(read_bytes(path), str(path))
    patient_id = text_of(header, "PatientID")
    return image_id, key.pseudonym(patient_id) if patient_id else None


def read_to_size(path: str | Path, short_edge: int, *, reduced_jpeg2000: bool = False) -> tuple[Radiograph, np.ndarray]:
    """Return a radiograph and its (H, W) uint8 pixels as a prepared folder holds them.

    Raises:
        DicomError: the file is not a radiograph we can show.
    """
    with quiet_pydicom():
        radiograph = read_radiograph(path, min_short_edge=short_edge if reduced_jpeg2000 else None, jpeg2000_only=True)
    return radiograph, shrink(radiograph.pixels, short_edge, radiograph.pixel_aspect, radiograph.size_hw)


def write_grey_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) uint8 pixels as PNG, atomically; no metadata go with them.

    Raises:
        DatasetError: the disk is full, or the folder must not be written to.
    """
    # Not imwrite, which may return True after a full disk cut its last block off.
    _, content = cv2.imencode(".png", pixels, PNG_OPTIONS)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.data)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be written ({error.strerror}); what was finished is kept") from None


def image_notes(images: Sequence[PreparedImage]) -> list[str]:
    """Return what a user should know of prepared images and nobody should have to search for."""
    notes = []
    warned = sum(bool(image.warnings) for image in images)
    if warned:
        notes.append(f"{warned} radiographs came with warnings; {INDEX_NAME} lists them.")
    burned_in = sum(image.burned_in_annotation is True for image in images)
    if burned_in:
        notes.append(
            f"{counted(burned_in, 'radiograph')} with text burnt into the pixels (BurnedInAnnotation YES), which may "
            f"name the patient; {INDEX_NAME} lists them."
        )
    return notes


def _remove_unfinished(out_dir: Path) -> None:
    """Remove the hidden temporary files of a run that was killed; younger ones may be another run's, under way."""
    for path in out_dir.glob(".*.png"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS:
                path.unlink()


def shrink(
    pixels: np.ndarray, short_edge: int, pixel_aspect: float = 1.0, size_hw: tuple[int, int] | None = None
) -> np.ndarray:
    """Return ``pixels`` made square and with a shorter side of at most ``short_edge``, by area interpolation.

    Args:
        pixels: (H, W).
        short_edge: 0 keeps the size.
        pixel_aspect: height of a pixel over its width; the denser axis shrinks, so that no axis ever grows.
        size_hw: the original's, where ``pixels`` were decoded at a reduced size; the result has the same size anyway.
    """
    height, width = size_hw or pixels.shape
    square_height, square_width = height * min(1.0, pixel_aspect), width / max(1.0, pixel_aspect)
    scale = min(1.0, short_edge / min(square_height, square_width)) if short_edge else 1.0
    target_hw = (max(1, round(square_height * scale)), max(1, round(square_width * scale)))
    if target_hw == pixels.shape:
        return pixels
    return cv2.resize(pixels, target_hw[::-1], interpolation=cv2.INTER_AREA)

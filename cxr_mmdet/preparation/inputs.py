"""Inputs of a build: annotations of one or several sets, matched with their radiographs, under common names."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from cxr_mmdet.annotations.coverage import SET_SEPARATOR, ImageFacts, coverage_frame
from cxr_mmdet.annotations.sources import ImageFinder, read_source
from cxr_mmdet.annotations.table import REGION_COLUMN, class_names
from cxr_mmdet.errors import DatasetError, UsageError, counted
from cxr_mmdet.preparation.images import Failure
from cxr_mmdet.structures.labels import NO_FINDING
from cxr_mmdet.structures.radiograph_files import find_originals, image_id_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cxr_mmdet.annotations.sources import Source


@dataclass(frozen=True)
class Input:
    """One set of a build.

    Attributes:
        name: of the set: as given, else that of its format.
        source: its annotations, images under the ids of their files.
        images: image id → file, of the images that somebody read.
        files: image id → file, of all radiographs found, under the set's own ids.
        missing: images with a row and without a file.
        unread: files without a row.
        notes: what a user should know.
    """

    name: str
    source: Source
    images: Mapping[str, Path]
    files: Mapping[str, Path]
    missing: tuple[Failure, ...]
    unread: tuple[Failure, ...]
    notes: tuple[str, ...]

    @property
    def nobody_read(self) -> tuple[str, ...]:
        """Images that nobody read, where that is no mistake in this format."""
        left_out = [each.image_id for each in self.unread] if self.source.unread_is_known else []
        return tuple(sorted({*self.source.unread, *left_out} - self.images.keys()))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Images and files without a counterpart that should have one."""
        return self.missing if self.source.unread_is_known else (*self.missing, *self.unread)


def read_input(
    src: Path,
    *,
    name: str = "",
    table: Path | None = None,
    format_name: str | None = None,
    group_column: str | None = None,
    unread_as_normal: bool = False,
) -> Input:
    """Return the annotations of a folder with the radiographs that they are of.

    Args:
        src: holds the annotations and the radiographs.
        name: of the set; empty for that of its format.
        table: the annotations, where they lie elsewhere.
        format_name: their format; None tells it by their content.
        group_column: a column of them that names each image's group.
        unread_as_normal: take radiographs without a row for read and without finding.

    Raises:
        TableError: the annotations cannot be read or contradict themselves.
        DatasetError: there are no radiographs.
    """
    source = read_source(table or src, images=src, group_column=group_column, format_name=format_name)
    files = images_of(source, src)
    found, without_file = match_ids(source.rows["image_id"], files)
    named = set(found.values())
    index = ImageFinder(src)
    missing = [
        Failure(
            each,
            src / each,
            f"{source.path} names image {each}, but {src} {_why_missing(index.by_id.get(image_id_of(each), ()))}",
        )
        for each in without_file
    ]
    unread = [
        Failure(
            each, path, f"{path}: no row in {source.path.name}, so nobody read it; if it is normal, --unread-as-normal"
        )
        for each, path in files.items()
        if each not in named and not unread_as_normal
    ]
    respelled = [each for each, image_id in found.items() if each != image_id]
    notes = source.notes
    if respelled:
        first = f"{respelled[0]!r} for {found[respelled[0]]!r}"
        notes = (
            f"{counted(len(respelled), 'image')} spelled otherwise in {source.path.name} than the file (accents or "
            f"suffix), such as {first}.",
            *notes,
        )
    return Input(
        name=name or source.format,
        source=_renamed(source, found),
        images={each: path for each, path in files.items() if each in named or unread_as_normal},
        files=files,
        missing=tuple(missing),
        unread=tuple(unread),
        notes=notes,
    )


def _why_missing(files: Sequence[Path]) -> str:
    if len(files) < 2:
        return "holds no radiograph of this name, nor do its folders"
    return f"holds {counted(len(files), 'radiograph')} of this name, such as {files[0]} and {files[1]}; leave one"


def _renamed(source: Source, found: Mapping[str, str]) -> Source:
    """Return the source with other image ids."""

    def ids(values: Iterable[str]) -> list[str]:
        return [found.get(each, each) for each in values]

    coverage = source.coverage
    return replace(
        source,
        rows=source.rows.assign(image_id=ids(source.rows["image_id"])),
        coverage=None if coverage is None else coverage.set_axis(pd.Index(ids(coverage.index), name="image_id")),
        split=source.split and dict(zip(ids(source.split), source.split.values(), strict=True)),
        normal=None if source.normal is None else frozenset(ids(source.normal)),
        unread=tuple(ids(source.unread)),
    )


def images_of(source: Source, src: Path) -> dict[str, Path]:
    """Return image id → radiograph: where the source says, in ``train/`` or the folder itself, else anywhere below.

    Raises:
        DatasetError: there is no radiograph.
    """
    if source.images is not None:
        if not source.images:
            raise DatasetError(f"{src}: holds none of the radiographs that {source.path.name} names.")
        return dict(sorted(source.images.items()))
    index = ImageFinder(src)
    try:
        found = find_originals(src)
    except DatasetError:
        found = {name: paths[0] for name, paths in sorted(index.by_id.items()) if len(paths) == 1}
        if not index.files:
            raise DatasetError(
                f"{src}: holds no radiograph, nor do its folders; expected those that {source.path.name} names."
            ) from None
    _, elsewhere = match_ids(source.rows["image_id"], found)
    for name in elsewhere:
        path = index.find(name)
        if path is None:
            continue
        image_id = image_id_of(path)
        if image_id != image_id_of(name) and found.get(image_id) == path:
            # Named by its UID, which then is the image's id.
            del found[image_id]
        found[image_id if image_id == image_id_of(name) else name] = path
    return dict(sorted(found.items()))


def match_ids(named: Iterable[str], sources: Mapping[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Return the file's image id for each id of the table that has one, and the ids that have none, sorted.

    An id that matches no file is compared again without regard to Unicode's two forms of accents (macOS names files in
    the one, most tables are in the other) and to a suffix in the table; it must then mean one file that no other id
    means.

    Args:
        named: the ids of the table.
        sources: image id → file.
    """
    names = sorted(set(named))
    found = {name: name for name in names if name in sources}
    by_form: dict[str, list[str]] = defaultdict(list)
    for image_id in sources:
        if image_id not in found:
            by_form[unicodedata.normalize("NFC", image_id)].append(image_id)
    meant: dict[str, list[str]] = defaultdict(list)
    for name in names:
        form = unicodedata.normalize("NFC", name)
        candidates = by_form.get(form) or by_form.get(image_id_of(form)) or []
        if name not in found and len(candidates) == 1:
            meant[candidates[0]].append(name)
    found |= {owners[0]: image_id for image_id, owners in meant.items() if len(owners) == 1}
    return found, [name for name in names if name not in found]


def read_inputs(
    places: Sequence[tuple[str, Path]],
    *,
    table: Path | None = None,
    format_name: str | None = None,
    group_column: str | None = None,
    unread_as_normal: bool = False,
) -> list[Input]:
    """Return the sets of a build; of several, images, classes and readers under names that no two sets share.

    Args:
        places: name of the set, empty for that of its format, and its folder.
        table: see :func:`read_input`; for a single set only.
        format_name: likewise.
        group_column: see :func:`read_input`.
        unread_as_normal: see :func:`read_input`.

    Raises:
        UsageError: two sets have one name, or an option makes no sense with several.
    """
    if len(places) > 1 and (table or format_name):
        option = "--table" if table else "--format"
        raise UsageError(f"{option} belongs to one set, but {len(places)} are built; leave it out.")
    inputs = [
        read_input(
            place,
            name=name,
            table=table,
            format_name=format_name,
            group_column=group_column,
            unread_as_normal=unread_as_normal,
        )
        for name, place in places
    ]
    if len(inputs) == 1:
        return inputs
    for name, count in Counter(each.name for each in inputs).items():
        if count > 1:
            raise UsageError(f"{count} sets are named {name!r}; name them apart, as in first=DIR second=DIR.")
    counts = Counter(name for each in inputs for name in {*each.images, *each.source.rows["image_id"]})
    shared = {name for name, count in counts.items() if count > 1}
    return [_with_set_name(each, shared) for each in inputs]


def _with_set_name(each: Input, shared: set[str]) -> Input:
    def ids(names: Iterable[str]) -> dict[str, str]:
        return {name: f"{each.name}-{name}" if name in shared else name for name in names}

    source = _renamed(each.source, ids({*each.source.rows["image_id"], *each.source.unread}))
    rows = source.rows
    finding = rows["class_name"] != NO_FINDING
    rows = rows.assign(
        class_name=(each.name + SET_SEPARATOR + rows["class_name"]).where(finding, NO_FINDING),
        reader=each.name + SET_SEPARATOR + rows["reader"],
    )
    coverage = source.coverage
    if coverage is None:
        looked_for = dict.fromkeys([*class_names(source.rows), *source.classes])
        coverage = coverage_frame(sorted(rows["image_id"].unique()), list(looked_for))
    images = ids(each.images)
    return replace(
        each,
        notes=tuple(f"{each.name}: {note}" for note in each.notes),
        source=replace(source, rows=rows, coverage=coverage.add_prefix(each.name + SET_SEPARATOR)),
        images={images[name]: path for name, path in each.images.items()},
    )


def facts_of(inputs: Sequence[Input]) -> ImageFacts:
    """Return the statements about the images of all inputs."""
    sources = [each.source for each in inputs]
    frames = [source.coverage for source in sources if source.coverage is not None]
    return ImageFacts(
        coverage=pd.concat(frames).fillna(0).astype("int8") if frames else None,
        set_of={image: each.name for each in inputs for image in each.images} if len(inputs) > 1 else {},
        split_of={image: side for source in sources for image, side in (source.split or {}).items()},
        normal={
            image: image in source.normal
            for source in sources
            if source.normal is not None
            for image in source.rows["image_id"].unique()
        },
    )


def all_rows(inputs: Sequence[Input]) -> pd.DataFrame:
    """Return the rows of all inputs; classes of several sets are numbered anew, set by set."""
    return join_rows([each.source.rows for each in inputs])


def join_rows(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of several sets as one frame; a single one as it is."""
    if len(frames) == 1:
        return frames[0]
    names = [*dict.fromkeys(name for rows in frames for name in class_names(rows)), NO_FINDING]
    rows = pd.concat(frames, ignore_index=True)
    if REGION_COLUMN in rows:
        rows[REGION_COLUMN] = rows[REGION_COLUMN].fillna(False).astype(bool)
    return rows.assign(class_id=rows["class_name"].map({name: number for number, name in enumerate(names)}))


def without_test_images(each: Input) -> Input:
    """Return the input without the images that the split of its source keeps for a test."""
    split = each.source.split or {}
    sides = set(split.values())
    if "test" not in sides:
        return each
    if "val" not in sides:
        named = {image: "val" if side == "test" else side for image, side in split.items()}
        note = f"{each.source.path.name} has no part for validation: the one for testing takes its place."
        return replace(each, source=replace(each.source, split=named), notes=(*each.notes, note))
    test = {image for image, side in split.items() if side == "test"}
    source = replace(
        each.source, rows=each.source.rows[~each.source.rows["image_id"].isin(test)].reset_index(drop=True)
    )
    note = (
        f"{counted(len(test), 'image')} that {each.source.path.name} keeps for testing left out (--split random takes "
        "all images)."
    )
    images = {image: path for image, path in each.images.items() if image not in test}
    return replace(each, source=source, images=images, notes=(*each.notes, note))

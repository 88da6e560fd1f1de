"""Label sets: the built-in ones, their order, and files of a user's own."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_mmdet.errors import UsageError
from cxr_mmdet.recipes import config_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LABELS_14 = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
"""VinBigData's findings; the index is the competition's ``class_id``."""

LABELS_5 = ("Aortic enlargement", "Cardiomegaly", "ILD", "Infiltration", "Nodule/Mass")
"""The reference project's reduced set."""

MINORITY_LABELS_5 = ("ILD", "Infiltration", "Nodule/Mass")
"""Classes whose radiographs the reference project flips and rotates."""

_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}

NO_FINDING = "No finding"
NO_FINDING_ID = 14
_NO_FINDING_SPELLINGS = frozenset(
    {"nofinding", "nofindings", "normal", "none", "healthy", "noabnormality", "noabnormalities"}
)
_COMMENT = re.compile(r"(?:^|\s)#.*")
"""Comment of a line; a ``#`` within a word belongs to the word."""


LABELS_22 = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
"""The local findings of the VinDr-CXR release, in the order of its image-level label files."""

_MERGED = re.compile(r"(?P<label>.+?)\s*:\s*\[(?P<classes>[^\]]*)\]")


def is_no_finding(name: str) -> bool:
    """Return whether a class name means "No finding", in any of the usual spellings."""
    return re.sub(r"[\W_]+", "", name).casefold() in _NO_FINDING_SPELLINGS


def spelling_key(name: str) -> str:
    """Return a key that is equal for names that differ only in case, blanks or Unicode form."""
    return "".join(unicodedata.normalize("NFKC", name).split()).casefold()


def strip_comment(line: str) -> str:
    """Return a line of a text file without its comment, which begins with a ``#`` at the start or after a blank."""
    return _COMMENT.sub("", line).strip()


def resolve_labels(spec: str, names_in_table: Iterable[str]) -> tuple[str, ...]:
    """Return the label set that ``spec`` names, in training order; see :func:`resolve_label_map`."""
    return tuple(resolve_label_map(spec, names_in_table))


def resolve_label_map(spec: str, names_in_table: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return each label of a set, in training order, with the classes of the readers' table that it stands for.

    Args:
        spec: ``14``, ``5``, ``auto`` (the classes of the table, by class id where it has one, as the caller orders
            them), the name of a file that is shipped (``findings_14``), or the path of a text file: one label per line,
            either the name of a class or, to merge classes, ``Lung Opacity: [Lung Opacity, Infiltration]``, each of
            any set or, as ``nih:Nodule``, of one. Classes that no line names are dropped; blank lines and ``#``
            comments are skipped; a name that holds a comma is written in double quotes. A ``.yaml`` file holds the
            same as a mapping.
        names_in_table: class names as they occur in the readers' table, in the order that ``auto`` uses.

    Raises:
        UsageError: the file is missing, empty, or names a label or a class twice.
    """
    if spec == "14":
        return {name: (name,) for name in LABELS_14}
    if spec == "5":
        return {name: (name,) for name in LABELS_5}
    if spec == "auto":
        names = tuple(dict.fromkeys(name for name in names_in_table if name != NO_FINDING))
        if not names:
            raise UsageError(
                "--labels auto found no class in the table, only 'No finding'; name the classes in a file."
            )
        return {name: (name,) for name in names}
    path = Path(spec)
    if not path.is_file():
        path = config_folder() / "labels" / f"{spec}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise UsageError(
            f"--labels {spec}: neither 14, 5, auto nor {shipped}, and no such file; write one class name per line."
        )
    return _read_label_file(path)


def _read_label_file(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text ({error.reason}); write one class name per line.") from None
    labels: dict[str, tuple[str, ...]] = {}
    owners: dict[str, int] = {}
    for number, label, classes in _yaml_lines(text, path) if path.suffix in (".yaml", ".yml") else _text_lines(text):
        where = f"{path}, line {number}"
        if label in labels:
            raise UsageError(f"{where}: names {label} more than once; each label stands on one line.")
        if not all([label, classes, *classes]):
            shown = f"{label}: [{', '.join(classes)}]"
            raise UsageError(f"{where}: {shown!r} merges nothing; expected a label and classes: Opacity: [A, B].")
        if any(map(is_no_finding, (label, *classes))):
            raise UsageError(f"{where}: '{NO_FINDING}' is the absence of boxes, not a class to draw; remove it.")
        for name in classes:
            if name in owners:
                raise UsageError(
                    f"{where}: class {name} is already part of the label on line {owners[name]}; a box has one label."
                )
            owners[name] = number
        labels[label] = classes
    if not labels:
        raise UsageError(f"{path}: holds no class name; write one per line.")
    return labels


def _text_lines(text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield number, label and classes of each line that holds a label."""
    for number, line in enumerate(text.splitlines(), start=1):
        if stripped := strip_comment(line):
            yield number, *_parse_label(stripped)


def _yaml_lines(text: str, path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield the same of a YAML mapping of labels to a list of classes, or to nothing for the class of their name."""
    import yaml

    expected = "expected labels with a list of classes each, such as 'Opacity: [Lung Opacity, nih:Infiltrate]'"
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML ({' '.join(str(error).split())}); {expected}.") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}: holds no mapping; {expected}.")
    for key, value in root.value if root else ():
        number, is_empty = key.start_mark.line + 1, value.tag == "tag:yaml.org,2002:null"
        items = value.value if isinstance(value, yaml.SequenceNode) else [key if is_empty else value]
        if not all(isinstance(item, yaml.ScalarNode) for item in [key, *items]):
            raise UsageError(f"{path}, line {number}: holds no names; {expected}.")
        yield number, key.value.strip(), tuple(item.value.strip() for item in items)


def _parse_label(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the label of a line and the classes it stands for; a line without brackets is a class of its own name."""
    merged = _MERGED.fullmatch(text)
    if not merged:
        return text, (text,)
    (classes,) = csv.reader([merged["classes"]], skipinitialspace=True) if merged["classes"].strip() else ([],)
    return merged["label"], tuple(name.strip() for name in classes)


def mirrored_labels(class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the class of each class's mirror image: "Left lung" for "Right lung", the class itself for most."""
    index = {name: label for label, name in enumerate(class_names)}
    swapped = [_SIDE.sub(lambda match: _OTHER_SIDE.get(match[0], match[0]), name) for name in class_names]
    return tuple(index.get(name, label) for label, name in enumerate(swapped))


def shared_classes(own: Sequence[str], given: Sequence[str]) -> list[tuple[int, int]]:
    """Return the places in both lists of the classes that both name.

    Neither case nor spaces and underscores tell two names apart, unless one list uses them to.
    """

    def plain(name: str) -> str:
        return " ".join(name.replace("_", " ").casefold().split())

    exact = {name: index for index, name in enumerate(given)}
    own_plain, given_plain = ([plain(name) for name in names] for names in (own, given))
    alike = {
        name: index
        for index, name in enumerate(given_plain)
        if given_plain.count(name) == 1 and own_plain.count(name) == 1
    }
    places = ((index, exact.get(name, alike.get(own_plain[index]))) for index, name in enumerate(own))
    return [(index, place) for index, place in places if place is not None]

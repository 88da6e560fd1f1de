"""DICOM Conformance Statement (PS3.2), made from what the code accepts, proposes and writes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pynetdicom
from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from cxr_mmdet import __version__
from cxr_mmdet.dicom.codecs import DECODABLE
from cxr_mmdet.dicom.codes import PRIVATE_SCHEME
from cxr_mmdet.dicom.derived import CARRIED_IF_KNOWN, EMPTY_IF_UNKNOWN
from cxr_mmdet.dicom.report import presentation_state, secondary_capture, structured_report
from cxr_mmdet.dicom.source import RADIOGRAPHS
from cxr_mmdet.pacs import dicomweb, node, sender, worker
from cxr_mmdet.pacs.listener import ConnectionLimits
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.labels import LABELS_5

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST_VALUE = 60
_VERSION = "version of the software"


def conformance_statement() -> str:
    """Return the statement as Markdown."""
    first, second = _sample(1), _sample(2)
    objects = [pair[1] for pair in first[1:]]
    options, limits = node.NodeOptions("CXR"), ConnectionLimits()
    proposed = [
        (made.SOPClassUID, [made.file_meta.TransferSyntaxUID, *sender._SYNTAXES])
        for made in objects
        if made.file_meta.TransferSyntaxUID
    ]
    verification = UID(node.VERIFICATION)
    return (
        Path(__file__)
        .with_suffix(".md")
        .read_text(encoding="utf-8")
        .format(
            version=__version__,
            services=_table(
                ("SOP class", "UID", "Provider (SCP, origin server)", "User (SCU, user agent)"),
                [
                    (verification.name, verification, "yes", "yes"),
                    *((kind.name, kind, "yes", "no; retrieved by WADO-RS") for kind in RADIOGRAPHS),
                    *(
                        (made.SOPClassUID.name, made.SOPClassUID, "no", "yes; also stored by STOW-RS")
                        for made in objects
                    ),
                ],
            ),
            implementation_uid=pynetdicom.PYNETDICOM_IMPLEMENTATION_UID,
            implementation=pynetdicom.PYNETDICOM_IMPLEMENTATION_VERSION,
            acse_s=sender.TIMEOUT_S,
            delivery_s=sender.DELIVERY_S,
            refusals=worker.MAX_REFUSALS,
            proposed=_contexts(proposed, "SCU"),
            accepted=_contexts(
                [(verification, pynetdicom.DEFAULT_TRANSFER_SYNTAXES), *((kind, DECODABLE) for kind in RADIOGRAPHS)],
                "SCP",
            ),
            pdu=node.MAX_PDU_BYTES,
            associations=options.max_associations,
            port=options.port,
            limits=limits,
            message_mib=limits.message_bytes >> 20,
            statuses=_table(
                ("Service status", "Code", "Sent when"),
                [
                    ("Success", "0000", "the radiograph is on the disk, or it was there already"),
                    (
                        "Refused: out of resources",
                        f"{node.OUT_OF_RESOURCES:04X}",
                        "the disk is full; send it again later",
                    ),
                    (
                        "Error: data set does not match",
                        f"{node.DOES_NOT_MATCH:04X}",
                        "its UIDs are not those requested",
                    ),
                    ("Error: cannot understand", f"{node.CANNOT_UNDERSTAND:04X}", "the data set is damaged"),
                    (
                        "Duplicate SOP instance",
                        f"{node.DUPLICATE_INSTANCE:04X}",
                        "the SOP Instance UID belongs to other pixels or to another patient",
                    ),
                ],
            ),
            modalities=" or ".join(dicomweb.MODALITIES),
            page=dicomweb.PAGE,
            connect_s=dicomweb.CONNECT_S,
            read_s=dicomweb.READ_S,
            answer_mib=dicomweb.MAX_ANSWER_BYTES >> 20,
            scheme=PRIVATE_SCHEME,
            copied=", ".join(EMPTY_IF_UNKNOWN),
            copied_if_known=", ".join(CARRIED_IF_KNOWN),
            sr=_attributes(first, second, 1),
            tree="\n".join(_tree(first[1][1])),
            sc=_attributes(first, second, 2),
            pr=_attributes(first, second, 3),
        )
    )


def _sample(number: int) -> list[tuple[str, Dataset]]:
    """Return a radiograph and the objects that are made of it; nothing in two of them is equal by chance."""
    size_hw = (200 * number, 100 * number)
    radiograph = Dataset()
    radiograph.ensure_file_meta()
    radiograph.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    texts = {
        "DA": f"2020010{number}",
        "TM": f"10100{number}",
        "CS": "MF"[number - 1],
        "AS": f"05{number}Y",
        "DS": number,
    }
    for keyword in (*EMPTY_IF_UNKNOWN, *CARRIED_IF_KNOWN):
        element = Dataset()
        if not keyword.endswith("Sequence"):
            setattr(element, keyword, None)
            setattr(radiograph, keyword, texts.get(element[keyword].VR, f"{keyword[:8]} {number}"))
    radiograph.PatientIdentityRemoved = ("YES", "NO")[number - 1]
    radiograph.PatientOrientation = [("L", "F"), ("R", "F")][number - 1]
    radiograph.BurnedInAnnotation = ("NO", "YES")[number - 1]
    radiograph.SOPClassUID, radiograph.PhotometricInterpretation = RADIOGRAPHS[number - 1], "MONOCHROME2"
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(radiograph, keyword, generate_uid(entropy_srcs=[keyword, str(number)]))
    radiograph.Rows, radiograph.Columns = size_hw
    radiograph.SamplesPerPixel, radiograph.BitsAllocated, radiograph.BitsStored = 1, 16, 12
    radiograph.PixelRepresentation, radiograph.InstanceNumber = 0, 40 + number
    radiograph.WindowCenter, radiograph.WindowWidth = 2048 + number, 4096 - number
    box = Detections(
        np.array([[number, 2.0 * number, 30 + number, 40]]), np.array([number]), np.array([0.5 + number / 10]), LABELS_5
    )
    found = Findings.of(box, size_hw=size_hw, model_id=f"model {number}")
    created = datetime.datetime(2021, number, number, number, number, number, number)
    image = np.full((*size_hw, 3), number, np.uint8)
    return [
        ("radiograph", radiograph),
        ("report", structured_report(found, radiograph, created=created)),
        ("capture", secondary_capture(image, found, radiograph, created=created, jpeg_quality=95)),
        ("presentation", presentation_state(found, radiograph, created=created)),
    ]


def _attributes(first: list[tuple[str, Dataset]], second: list[tuple[str, Dataset]], number: int) -> str:
    """Return the table of an object's attributes, by what is the same in two of different radiographs."""
    rows = _rows(first[number][1], second[number][1], first[0][1], second[0][1])
    return _table(("Attribute", "Tag", "VR", "Value"), rows)


def _rows(
    first: Dataset, second: Dataset, source: Dataset, other_source: Dataset, level: str = ""
) -> Iterator[tuple[str, str, str, str]]:
    for element in first:
        if element.keyword in (*EMPTY_IF_UNKNOWN, *CARRIED_IF_KNOWN):
            continue
        keyword, other = element.keyword, second.get(element.tag)
        name = level + dictionary_description(element.tag) if keyword else f"{level}private"
        yield name, str(element.tag), element.VR, _origin(element, other, source, other_source)
        if element.VR == "SQ" and element.value and keyword != "ContentSequence":
            item, other_item = element.value[0], other.value[0] if other is not None and other.value else Dataset()
            yield from _rows(item, other_item, source, other_source, level + ">")


def _origin(element: Any, other: Any, source: Dataset, other_source: Dataset) -> str:
    """Return where the value of an attribute comes from."""
    if element.keyword == "ContentSequence":
        return "see the tree"
    if element.VR == "SQ":
        return "one item per finding" if element.keyword.startswith("Graphic") else "" if element.value else "empty"
    if element.keyword == "SoftwareVersions":
        return _VERSION
    if other is not None and element.value == other.value:
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        value = "\\".join(str(value) for value in values if value is not None)
        name = f" ({element.value.name})" if element.VR == "UI" and element.value.name != value else ""
        return f"`{value[:LONGEST_VALUE]}`{name}" if value else "empty"
    for keyword in (element.keyword, element.keyword.removeprefix("Referenced")):
        if keyword in source and (source[keyword].value, other_source[keyword].value) == (element.value, other.value):
            return "that of the radiograph"
    return "made for this object"


def _tree(dataset: Dataset, level: int = 0) -> Iterator[str]:
    """Yield the content items of a report, as in PS3.16's templates, with their concepts."""
    for item in dataset.ContentSequence:
        name = item.ConceptNameCodeSequence[0] if "ConceptNameCodeSequence" in item else None
        concept = "" if name is None else f" ({name.CodeValue}, {name.CodingSchemeDesignator}, {name.CodeMeaning})"
        yield f"{'  ' * level}{item.RelationshipType} {item.ValueType}{concept}"
        if "ContentSequence" in item:
            yield from _tree(item, level + 1)


def _contexts(contexts: Iterable[tuple[UID, Iterable[str]]], role: str) -> str:
    rows = [
        (kind.name, kind, "<br>".join(f"{UID(syntax).name} `{syntax}`" for syntax in dict.fromkeys(syntaxes)), role)
        for kind, syntaxes in contexts
    ]
    return _table(
        ("Abstract syntax", "UID", "Transfer syntaxes", "Role"),
        [(*row, "none") for row in rows],
        "Extended negotiation",
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]], *more: str) -> str:
    lines = [(*head, *more), ("---",) * (len(head) + len(more)), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

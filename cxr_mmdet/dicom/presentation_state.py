"""Findings over the original radiograph as a Grayscale Softcopy Presentation State, made with highdicom."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from highdicom import pr
from highdicom.color import CIELabColor
from pydicom import Dataset

from cxr_mmdet import __version__
from cxr_mmdet.dicom import codes
from cxr_mmdet.dicom.attributes import code_of, items, text_of
from cxr_mmdet.dicom.derived import MANUFACTURER, Origin, derived_uid, fingerprint, outline
from cxr_mmdet.dicom.radiograph import pixel_aspect
from cxr_mmdet.dicom.source import with_functional_groups
from cxr_mmdet.dicom.windowing import is_inverted, modality_transformation, own_view
from cxr_mmdet.drawing import class_style
from cxr_mmdet.errors import DicomError

if TYPE_CHECKING:
    import datetime

    from cxr_mmdet.dicom.luts import Lut
    from cxr_mmdet.dicom.viewing import Window
    from cxr_mmdet.structures.detections import Box, Findings

DESCRIPTION = "cxr_mmdet presentation (research use only)"
LABEL = "CXR_MMDET"
SERIES_NUMBER = 9303

_TEXT_SHARE = 1 / 32
"""Height of a name, of the image's; viewers choose their own letters and only start them there."""


def build_presentation_state(
    findings: Findings,
    source: Dataset,
    created: datetime.datetime,
    *,
    window: Window | None,
    invert: bool,
) -> Dataset:
    """Return the presentation state; see :func:`cxr_mmdet.dicom.report.presentation_state`."""
    origin = Origin.of(source, findings)
    if not code_of(source, "PhotometricInterpretation").startswith("MONOCHROME"):
        raise DicomError("the radiograph is in colour, which a grayscale presentation state cannot refer to.")
    image = origin.evidence()
    image.SamplesPerPixel = 1
    image.Rows, image.Columns = findings.size_hw
    layers = _layers(findings)
    shown = f"{window} {invert}"  # the same findings in another window are another instance
    uid = derived_uid("PR", origin.sop_instance_uid, fingerprint(findings), shown)
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=derived_uid("PR series", origin.study_instance_uid, findings.model_id),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=None,  # type: ignore[arg-type]  # it may be left out, says the docstring
        content_label=LABEL,
        content_description=f"Findings of {findings.model_id}"[:64],
        graphic_layers=list(layers.values()) or None,
        graphic_annotations=_annotations(findings, image, layers) or None,
    )
    origin.fill(state, created=created, description=DESCRIPTION)
    state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
    del state.ContentDate, state.ContentTime  # which presentation states do not have
    state.Laterality = None  # of type 2C: empty where it is not known
    _add_transformations(state, with_functional_groups(source, 0), window, invert=invert)
    return state


def _layers(findings: Findings) -> dict[int, pr.GraphicLayer]:
    """Return a layer of each class that was found, by label: viewers switch layers off and on."""
    return {
        label: pr.GraphicLayer(
            f"CLASS_{label + 1}",
            order=place,
            description=codes.class_code(str(findings.class_names[label])).meaning,
            display_color=CIELabColor.from_rgb(*class_style(label).color),
        )
        for place, label in enumerate(sorted(set(findings.labels.tolist())), 1)
    }


def _annotations(findings: Findings, image: Dataset, layers: dict[int, pr.GraphicLayer]) -> list[pr.GraphicAnnotation]:
    return [
        pr.GraphicAnnotation(
            [image],
            layers[finding.label],
            graphic_objects=[_outline(finding.box_xyxy)],
            text_objects=[_name(f"{finding.class_name} {finding.score:.2f}", finding.box_xyxy, findings.size_hw)],
        )
        for finding in findings
    ]


def _outline(box_xyxy: Box) -> pr.GraphicObject:
    return pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, np.array(outline(box_xyxy)), pr.AnnotationUnitsValues.PIXEL)


def _name(text: str, box_xyxy: Box, size_hw: tuple[int, int]) -> pr.TextObject:
    """Return a text that stands on a box, or in it where there is no room above."""
    left, top, right, _ = box_xyxy
    height = max(1.0, size_hw[0] * _TEXT_SHARE)
    low = top - height if top >= height else top
    # A text is as wide as it is; one pixel more than nothing keeps flat boxes' texts valid.
    end = min(max(right, left + 1), float(size_hw[1]))
    return pr.TextObject(
        text,
        pr.AnnotationUnitsValues.PIXEL,
        bounding_box=(min(left, end - 1), low, end, min(low + height, float(size_hw[0]))),
        text_justification=pr.TextJustificationValues.LEFT,
    )


def _add_transformations(state: Dataset, source: Dataset, window: Window | None, *, invert: bool) -> None:
    """Write how stored values become grey (PS3.3 C.11.1, C.11.6, C.11.8), without what cannot be used."""
    _add_modality(state, source)
    view = own_view(source)
    item = Dataset()
    if window is not None:
        function = (
            view.window[0] if view is not None and view.window is not None else "LINEAR"
        )  # as the page renders it
        _add_window(item, function, window.center, window.width)
    elif view is not None and view.lut is not None:
        item.VOILUTSequence = [_table(view.lut)]
    elif view is not None and view.window is not None:
        _add_window(item, *view.window)
    if len(item):
        state.SoftcopyVOILUTSequence = [item]
    state.PresentationLUTShape = "INVERSE" if is_inverted(source, []) != invert else "IDENTITY"
    aspect = Fraction(pixel_aspect(source, [])).limit_denominator(1000)
    (area,) = state.DisplayedAreaSelectionSequence
    area.PresentationPixelAspectRatio = [aspect.numerator, aspect.denominator]


def _add_modality(state: Dataset, source: Dataset) -> None:
    transformation = modality_transformation(source, [])
    if isinstance(transformation, tuple):
        slope, intercept = transformation
        if (slope, intercept) != (1.0, 0.0) or text_of(source, "RescaleType"):
            state.RescaleSlope, state.RescaleIntercept = _decimal(slope), _decimal(intercept)
            state.RescaleType = text_of(source, "RescaleType") or "US"
        return
    table = _table(transformation)
    table.ModalityLUTType = text_of(items(source, "ModalityLUTSequence")[0], "ModalityLUTType") or "US"
    state.ModalityLUTSequence = [table]


def _add_window(item: Dataset, function: str, center: float, width: float) -> None:
    item.WindowCenter, item.WindowWidth = _decimal(center), _decimal(width)
    if function != "LINEAR":
        item.VOILUTFunction = function


def _table(lut: Lut) -> Dataset:
    item = Dataset()
    first = int(lut.first)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(lut.entries) % 0x10000, first, lut.bits])
    item.add_new("LUTData", "OW", lut.entries.astype("<u2").tobytes())
    return item


def _decimal(number: float) -> str:
    """Return a number in the 16 characters that a decimal string has."""
    return f"{number:.10g}"

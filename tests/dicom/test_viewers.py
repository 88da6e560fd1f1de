"""Reports in the viewers of other people: OHIF's own code under node, and what 3D Slicer asks of a report."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import highdicom.sr as sr
import numpy as np
import orthanc_server
import pydicom
import pytest
from ohif_code import PACKAGES, in_ohif, needs_ohif
from pydicom import dcmread
from pydicom.sr.codedict import codes as dictionary
from report_builders import CREATED, NOTHING, SOME, found, old_report, phantom_file, radiograph

from cxr_mmdet.dicom.report import read_header, secondary_capture, structured_report, to_bytes
from cxr_mmdet.web.corrected_reports import read_marks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cxr_mmdet.structures.detections import Findings

BROWSER = os.environ.get("CXR_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def many(count: int) -> Findings:
    corners = np.random.default_rng(0).uniform(0, [200, 300], (count, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return found(boxes, np.arange(count) % 14, np.linspace(0.9, 0.3, count))


def stored_radiograph() -> pydicom.Dataset:
    source = radiograph(PixelData=bytes(300 * 200), BitsAllocated=8)
    source["PixelData"].VR = "OB"
    return source


def rectangle(box: Any) -> list[list[float]]:
    """Return the handles of OHIF's RectangleROI: top left, top right, bottom left, bottom right."""
    x_min, y_min, x_max, y_max = np.asarray(box, np.float32).tolist()
    return [[x_min, y_min], [x_max, y_min], [x_min, y_max], [x_max, y_max]]


@needs_ohif
@pytest.mark.parametrize("early", [False, True], ids=["3.13", "earlier"])
def test_ohif_shows_and_hydrates_every_box(tmp_path: Path, early: bool):
    source = stored_radiograph()
    cases = [NOTHING, found([[10, 20, 30.5, 40]], [3], [0.75]), SOME, many(100)]
    capture = secondary_capture(np.zeros((30, 20, 3), np.uint8), SOME, source, created=CREATED)
    other = radiograph(SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", StudyInstanceUID=source.StudyInstanceUID)
    reports = [structured_report(findings, source, created=CREATED) for findings in cases]
    orders = [[other, capture, source], [source, capture, other]]
    for number, images in enumerate(orders[:1] if early else orders):
        folder = tmp_path / str(number)
        folder.mkdir()
        for findings, seen in zip(cases, in_ohif(folder, reports, images, early=early), strict=True):
            assert seen["isRehydratable"] == bool(len(findings))
            assert seen["referenced"] == [source.SOPInstanceUID]
            assert [shown["imageId"] for shown in seen["shown"]] == [f"test:{source.SOPInstanceUID}"] * len(findings)
            assert [(box["tool"], box["label"]) for box in seen["hydrated"]] == [
                ("RectangleROI", f"{finding.class_name} {finding.score:.2f}") for finding in findings
            ]
            for box, finding in zip(seen["hydrated"], findings, strict=True):
                assert np.allclose(box["corners"], rectangle(finding.box_xyxy), rtol=0, atol=1e-6)


@needs_ohif
def test_ohif_cannot_load_reports_of_the_old_layout(tmp_path: Path):
    """The judge is able to find fault: a group without coordinates makes OHIF's loader throw."""
    source = stored_radiograph()
    with pytest.raises(AssertionError, match="ReferencedSOPSequence"):
        in_ohif(tmp_path, [old_report(SOME, source)], [source])


def slicer_reads(report: pydicom.Dataset) -> list[tuple[str, str, str, list[list[float]]]]:
    """Return the table of boxes that 3D Slicer's QuantitativeReporting makes of a report.

    The steps of DICOMTID1500PluginClass (isDICOMTID1500, containsPlanarAnnotations, checkIfSRContainsGeometry,
    extractBboxMetadataToVtkTableNode and createBboxTable), in its words.
    """
    assert report.Modality == "SR"
    assert report.SOPClassUID == pydicom.uid.ComprehensiveSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    content = sr.ComprehensiveSR.from_dataset(report, copy=True).content
    groups = content.get_planar_roi_measurement_groups()
    if not groups:
        return []
    assert all(group.reference_type == dictionary.DCM.ImageRegion for group in groups)
    (polylines,) = [
        content.get_planar_roi_measurement_groups(
            reference_type=dictionary.DCM.ImageRegion, graphic_type=sr.GraphicTypeValues.POLYLINE
        )
    ]
    assert len(polylines) == len(groups)
    purpose = sr.CodedConcept("130400", "DCM", "Geometric purpose of region")
    bounded_by = sr.CodedConcept("75958009", "SCT", "Bounded by")
    for group in groups:
        assert bounded_by in [each.value for each in group.get_qualitative_evaluations(name=purpose)]
    (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    (referenced,) = {group.roi.ContentSequence[0].referenced_sop_instance_uid for group in groups}
    assert referenced == series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return [
        (
            str(group.tracking_identifier),
            group.finding_type.CodeMeaning,
            group.finding_sites[0].value.CodeMeaning,  # the plugin takes the first one without asking
            group.roi.value[:4].tolist(),
        )
        for group in groups
    ]


def test_slicer_finds_every_box():
    source = radiograph()
    rows = slicer_reads(structured_report(SOME, source, created=CREATED))
    assert [(finding, site) for _, finding, site, _ in rows] == [
        ("Cardiomegaly", "Heart"),
        ("Nodule/Mass", "Chest"),
        ("Nodule/Mass", "Chest"),
        ("Fibrosis", "Lung"),
    ]
    for finding, (*_, corners) in zip(SOME, rows, strict=True):
        x_min, y_min, x_max, y_max = np.float32(finding.box_xyxy).tolist()
        assert corners == [[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]]
    assert slicer_reads(structured_report(NOTHING, source, created=CREATED)) == []


@contextmanager
def ohif_page(archive: orthanc_server.Orthanc) -> Iterator[Any]:
    """Yield a browser's page in which the built viewer looks into an archive; it asks nobody else."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    address = f"http://127.0.0.1:{archive.http_port}"
    config = json.dumps(
        {
            "routerBasename": "/", "showStudyList": True, "extensions": [], "modes": [],
            "investigationalUseDialog": {"option": "never"}, "defaultDataSourceName": "dicomweb",
            "dataSources": [
                {
                    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "dicomweb",
                    "configuration": dict.fromkeys(("wadoUriRoot", "qidoRoot", "wadoRoot"), "/dicom-web")
                    | {"name": "orthanc", "imageRendering": "wadors", "thumbnailRendering": "wadors"},
                }
            ],
        }
    )  # fmt: skip

    def serve(route: Any) -> None:
        path = route.request.url.split("?")[0].removeprefix(address)
        file = PACKAGES / "package/dist" / path.lstrip("/")
        if not route.request.url.startswith(address):
            route.abort()
        elif path.startswith("/dicom-web"):
            route.continue_()
        elif path == "/app-config.js":
            route.fulfill(body=f"window.config = {config}", content_type="text/javascript")
        else:
            file = file if file.is_file() else PACKAGES / "package/dist/index.html"
            kinds = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".html": "text/html"}
            route.fulfill(path=file, content_type=kinds.get(file.suffix))

    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        context = browser.new_context(viewport={"width": 1440, "height": 900}, service_workers="block")
        context.route("**/*", serve)
        page = context.new_page()
        page.set_default_timeout(120_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
        # The viewer's own, as it changes from the report to the image.
        assert [error for error in errors if "viewport has been destroyed" not in error] == []


SEEN = """() => {
  const { measurementService, displaySetService } = window.services;
  const corners = ({ points, referencedImageId: image }) =>
    points.map(point => window.cornerstone.utilities.worldToImageCoords(image, point));
  const report = displaySetService.getActiveDisplaySets().find(set => set.Modality === 'SR');
  return {
    shown: report.measurements?.map(({ loaded }) => loaded),
    boxes: measurementService.getMeasurements().map(each => ({
      tool: each.toolName, label: each.label, corners: corners(each), image: each.SOPInstanceUID,
    })),
  };
}"""


@needs_ohif
@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs a browser: Debian's package chromium, or CXR_CHROMIUM")
@pytest.mark.skipif(bool(orthanc_server.NO_DICOMWEB), reason=orthanc_server.NO_DICOMWEB)
def test_the_viewer_itself_shows_hydrates_lists_and_stores_the_boxes(tmp_path: Path):
    """In a study where a Secondary Capture and another series come before the radiograph and its report.

    It is slow: the viewer takes seconds to start, and draws without a graphics card.
    """
    source = read_header(phantom_file(tmp_path, 3, size=384))
    size = source.Rows, source.Columns
    boxes = np.array([[0.3, 0.5, 0.75, 0.8], [0.15, 0.2, 0.4, 0.4], [0.6, 0.25, 0.7, 0.33]]) * [
        *size[::-1],
        *size[::-1],
    ]
    findings = found(boxes, [3, 5, 8], size_hw=size)
    labels = [f"{finding.class_name} {finding.score:.2f}" for finding in findings]
    capture = secondary_capture(findings.draw(np.zeros(size, np.uint8)), findings, source, created=CREATED)
    other = dcmread(BytesIO(to_bytes(source)))
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    other.SeriesInstanceUID = "1.2.4"
    other.SeriesNumber = capture.SeriesNumber = 0
    report = structured_report(findings, source, created=CREATED)
    with orthanc_server.run_orthanc(tmp_path / "archive") as archive, ohif_page(archive) as page:
        archive.put(*map(to_bytes, (capture, other, source, report)))
        page.goto(f"http://127.0.0.1:{archive.http_port}/viewer?StudyInstanceUIDs={source.StudyInstanceUID}")
        page.get_by_text("Skip all").click()  # of the tour
        page.get_by_text("cxr_mmdet findings").dblclick()
        page.get_by_role("button", name="Yes").click()  # continue tracking measurements
        page.wait_for_function("window.services.measurementService.getMeasurements().length > 0")
        seen = page.evaluate(SEEN)
        page.locator("[data-cy=trackedMeasurements-btn]").click()
        for label in labels:
            page.get_by_text(label, exact=True).wait_for()
        page.get_by_text("Create SR").click()
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("No tracked measurements").wait_for()
        held = [dcmread(BytesIO(archive.file(each["ID"]))) for each in archive.instances()]
    assert seen["shown"] == [True] * 3
    assert {(box["tool"], box["image"]) for box in seen["boxes"]} == {("RectangleROI", source.SOPInstanceUID)}
    assert [box["label"] for box in seen["boxes"]] == labels
    (stored,) = (each for each in held if each.Modality == "SR" and each.SOPInstanceUID != report.SOPInstanceUID)
    marked = read_marks(stored, tmp_path / "stored.dcm")
    assert marked.predecessors == (report.SOPInstanceUID,)
    assert marked.sop_instance_uid == source.SOPInstanceUID
    assert [text for text, _ in marked.marks] == labels
    for box, (_, corners), finding in zip(seen["boxes"], marked.marks, findings, strict=True):
        assert np.allclose(box["corners"], rectangle(finding.box_xyxy), rtol=0, atol=1e-3)
        assert np.allclose(corners, finding.box_xyxy, rtol=0, atol=1e-3)

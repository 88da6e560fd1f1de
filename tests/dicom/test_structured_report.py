"""Findings into structured reports and captures, judged by dcmtk and dicom3tools, and back again."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import highdicom.sr as sr
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import (
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)
from report_builders import BOXES, CREATED, NOTHING, SOME, errors_of, found, old_report, radiograph, run_tool, sources

from cxr_mmdet.dicom import codes
from cxr_mmdet.dicom import secondary_capture as captures
from cxr_mmdet.dicom.report import read_header, read_structured_report, secondary_capture, structured_report, to_bytes
from cxr_mmdet.errors import DicomError
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from pathlib import Path


def report_of(findings: Findings, source: Dataset | None = None) -> Dataset:
    return structured_report(findings, source or radiograph(), created=CREATED)


def classes_of(findings: Findings) -> list[str]:
    return [finding.class_name for finding in findings]


def read_back(report: Dataset) -> Dataset:
    from io import BytesIO

    return dcmread(BytesIO(to_bytes(report)))


@pytest.mark.parametrize("findings", [NOTHING, SOME, found([[1, 2, 3, 4]], p_abnormal=1.0)])
def test_boxes_classes_and_scores_survive_the_round_trip(findings: Findings):
    source = radiograph()
    back, sop_instance_uid = read_structured_report(to_bytes(report_of(findings, source)))
    assert np.array_equal(back.boxes_xyxy, findings.boxes_xyxy.astype(np.float32).astype(np.float64))
    assert classes_of(back) == [LABELS_14[label] for label in findings.labels]
    assert np.array_equal(back.scores, findings.scores)
    assert back.p_abnormal == findings.p_abnormal
    assert back.size_hw == findings.size_hw
    assert back.model_id == findings.model_id
    assert sop_instance_uid == source.SOPInstanceUID


@pytest.mark.parametrize("findings", [NOTHING, SOME])
def test_reports_of_earlier_versions_are_still_read(findings: Findings):
    source = radiograph()
    back, uid = read_structured_report(to_bytes(old_report(findings, source)))
    now, _ = read_structured_report(to_bytes(report_of(findings, source)))
    assert back.to_json() == now.to_json()
    assert uid == source.SOPInstanceUID


def test_what_a_model_finds_comes_back_to_the_last_bit():
    corners = np.random.default_rng(0).uniform(0, [200, 300], (50, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    detections = Detections(boxes, np.arange(50) % 14, np.linspace(0.1, 0.9, 50), LABELS_14)
    findings = Findings.of(detections, size_hw=(300, 200), model_id="m")
    back, _ = read_structured_report(to_bytes(report_of(findings)))
    assert np.array_equal(back.boxes_xyxy, findings.boxes_xyxy)
    assert np.abs(np.sort(findings.boxes_xyxy, axis=0) - np.sort(boxes, axis=0)).max() < 2e-5


def test_what_was_read_is_written_again_without_any_change():
    once, _ = read_structured_report(report_of(SOME))
    again, _ = read_structured_report(report_of(found(once.boxes_xyxy, [3, 8, 8, 13], once.scores)))
    assert np.array_equal(once.boxes_xyxy, again.boxes_xyxy)


def test_the_round_trip_meets_the_predictors_findings():
    back, _ = read_structured_report(report_of(SOME))
    findings = Findings.from_json(back.to_json(), LABELS_14)
    assert findings.labels.tolist() == SOME.labels.tolist()
    assert findings.to_json()["findings"][0] == {"class": "Cardiomegaly", "score": 1 / 3, "box_xyxy": [0, 0, 200, 300]}


def test_a_box_is_a_closed_line_in_pixels_of_the_radiograph_without_a_half_pixel_shift():
    report = read_back(report_of(found([[10, 20, 30.5, 40]])))
    region, within_score = _items_of_type(report, "SCOORD")
    for polyline in (region, within_score):
        assert polyline.GraphicType == "POLYLINE"
        assert list(polyline.GraphicData) == [10, 20, 30.5, 20, 30.5, 40, 10, 40, 10, 20]


def _items_of_type(item: Dataset, value_type: str) -> list[Dataset]:
    below = [found for child in item.get("ContentSequence", []) for found in _items_of_type(child, value_type)]
    return ([item] if item.get("ValueType") == value_type else []) + below


def test_the_same_result_is_the_same_bytes_and_another_one_another_object():
    source = radiograph()
    first = report_of(SOME, source)
    assert to_bytes(report_of(SOME, source)) == to_bytes(first)
    others = [
        report_of(SOME, radiograph(SOPInstanceUID="1.2.3")),
        report_of(found(BOXES, [3, 8, 8, 12]), source),
        report_of(found(BOXES, [3, 8, 8, 13], model_id="retina_5cls-another"), source),
        report_of(NOTHING, source),
    ]
    assert len({report.SOPInstanceUID for report in [first, *others]}) == 5
    assert all(len(report.SOPInstanceUID) <= 64 and report.SOPInstanceUID.is_valid for report in [first, *others])
    series = [report.SeriesInstanceUID for report in [first, *others]]
    assert series[2] == series[4] == series[0], "by another threshold"
    assert len({*series[:2], series[3]}) == 3, "of another radiograph and another model: OHIF shows one per series"


def test_patient_and_study_are_the_radiographs():
    given = {
        "PatientID": "7",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "PatientAge": "056Y",
        "StudyDate": "20260101",
        "StudyTime": "101112",
        "AccessionNumber": "A1",
        "StudyID": "S1",
        "StudyDescription": "Thorax p.a.",
        "ReferringPhysicianName": "Doe^Jane",
        "IssuerOfPatientID": "HOSPITAL",
    }
    source = radiograph(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎", **given)
    for made in (report_of(SOME, source), capture_of(SOME, source)):
        back = read_back(made)
        assert {keyword: str(back[keyword].value) for keyword in given} == given
        assert str(back.PatientName) == "Yamada^Tarou=山田^太郎"
        assert back.StudyInstanceUID == source.StudyInstanceUID
        assert back.SeriesInstanceUID != source.SeriesInstanceUID


def test_what_breaks_the_rules_is_left_out_unless_an_archive_files_by_it():
    source = radiograph(PatientID="x" * 70)
    for keyword, value in {"PatientBirthDate": "1970-01-02", "PatientSex": "woman", "PatientAge": "old"}.items():
        source.add_new(keyword, "LO", value)
        source[keyword].VR = {"PatientBirthDate": "DA", "PatientSex": "CS", "PatientAge": "AS"}[keyword]
    back = read_back(report_of(SOME, source))
    assert back.PatientID == "x" * 70
    assert back.PatientBirthDate == ""
    assert back.PatientSex == ""
    assert "PatientAge" not in back


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_radiograph_that_nothing_can_refer_to_is_refused(keyword: str):
    source = radiograph()
    del source[keyword]
    with pytest.raises(DicomError, match=f"no {keyword}, so no report can refer to it"):
        report_of(SOME, source)
    source.add_new(keyword, "LO", "not a uid")
    with pytest.raises(DicomError, match=f"invalid {keyword} 'not a uid'"):
        report_of(SOME, source)


def test_other_mistakes_end_in_a_sentence():
    with pytest.raises(DicomError, match="301 rows, the findings are of an image with 300"):
        report_of(SOME, radiograph(Rows=301))
    with pytest.raises(DicomError, match="no structured report can refer to"):
        report_of(SOME, radiograph(SOPClassUID="1.2.3.4"))
    for name in ("", "x" * 65, "a\\b", " blank"):
        with pytest.raises(DicomError, match="rename the class"):
            report_of(found([[1, 1, 2, 2]], class_names=(name,)))
    with pytest.raises(DicomError, match="is not a report of findings that cxr_mmdet wrote"):
        read_structured_report(radiograph())
    with pytest.raises(DicomError, match="image without patient"):
        read_header(b"\x89PNG\r\n\x1a\n" + bytes(100))


def test_class_names_of_any_script_survive():
    names = ("Verschattung größer 3 cm", "结节", "x" * 64)
    findings = found([[1, 1, 2, 2]] * 3, class_names=names)
    assert classes_of(read_structured_report(to_bytes(report_of(findings)))[0]) == list(names)


def test_every_public_code_stands_in_the_standards_dictionary():
    known: dict[tuple[str, str], set[str]] = {}
    for scheme in (dictionary.DCM, dictionary.SCT, dictionary.UCUM):
        for code in scheme.concepts.values():
            known.setdefault((code.value, code.scheme_designator), set()).add(code.meaning.lower())
    public = [code for entry in codes.FINDING_CODES.values() for code in entry if code is not None]
    public += [codes.NO_UNITS, codes.PLAIN_RADIOGRAPHY, codes.finding_site("Something of yours")]
    assert len(public) > 20
    for code in public:
        assert code.meaning.lower() in known[code.value, code.scheme_designator]


def test_every_class_of_the_label_sets_has_thought_given_to_its_code():
    assert {label.lower() for label in LABELS_14} <= set(codes.FINDING_CODES)
    assert codes.finding_code("Pneumothorax").scheme_designator == "SCT"
    assert codes.finding_code("Nodule/Mass").scheme_designator == codes.PRIVATE_SCHEME
    assert codes.finding_code("Something of yours") == codes.class_code("Something of yours")


def test_the_private_scheme_is_declared():
    (scheme,) = report_of(SOME).CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == codes.PRIVATE_SCHEME


def capture_of(
    findings: Findings, source: Dataset | None = None, side: int = 64, jpeg_quality: int | None = None
) -> Dataset:
    image = np.arange(side * (side + 1) * 3, dtype=np.uint32).astype(np.uint8).reshape(side, side + 1, 3)
    return secondary_capture(image, findings, source or radiograph(), created=CREATED, jpeg_quality=jpeg_quality)


def drawing() -> np.ndarray:
    """Return what overlays are like: a soft grey image with coloured lines and letters."""
    import cv2

    ramp = np.add.outer(np.arange(200), np.arange(301)).astype(np.float32)
    image = np.repeat((ramp / ramp.max() * 200).astype(np.uint8)[:, :, None], 3, axis=2)
    cv2.rectangle(image, (40, 50), (180, 160), (230, 60, 60), 2)
    cv2.putText(image, "Nodule 0.82", (42, 45), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (230, 60, 60), 1, cv2.LINE_AA)
    return image


def test_a_compressed_capture_says_so_and_shows_the_same():
    image = drawing()
    capture = read_back(secondary_capture(image, SOME, radiograph(), created=CREATED, jpeg_quality=95))
    assert capture.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert capture.LossyImageCompression == "01"
    size = capture.pixel_array.nbytes
    assert float(capture.LossyImageCompressionRatio) == pytest.approx(size / len(capture.PixelData), rel=0.05)
    shown = capture.pixel_array[: image.shape[0]].astype(int)  # pydicom makes RGB of it
    difference = np.abs(shown - image)
    assert difference.mean() < 2
    assert np.abs(capture.pixel_array[100, 40].astype(int) - (230, 60, 60)).max() < 40, "the line keeps its colour"


def test_another_quality_is_another_capture():
    assert len({capture_of(SOME, jpeg_quality=quality).SOPInstanceUID for quality in (None, 90, 95)}) == 3


def test_a_capture_holds_the_image_and_names_its_source():
    source = radiograph(PatientOrientation=["L", "F"], BurnedInAnnotation="NO")
    capture = read_back(capture_of(SOME, source))
    assert capture.SOPClassUID == SecondaryCaptureImageStorage
    expected = np.arange(64 * 65 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 65, 3)
    assert np.array_equal(capture.pixel_array[:64, :65], expected)
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert capture.PatientOrientation == ["L", "F"]
    assert capture.BurnedInAnnotation == "YES", "whatever the radiograph itself shows"


def test_a_capture_says_in_its_pixels_what_it_is(monkeypatch: pytest.MonkeyPatch):
    written: list[str] = []
    monkeypatch.setattr(captures, "add_footer", lambda image, texts: (written.extend(texts), image)[1])
    capture_of(found([], model_id="a" * 40 + "0123456789ab" + "b" * 40))
    middle = "a" * 30 + "..." + "b" * 32
    assert written == ["AI result \N{EN DASH} research use only", middle, "2026-01-02"]


def test_another_drawing_is_another_capture():
    uids = {capture_of(SOME).SOPInstanceUID, capture_of(SOME).SOPInstanceUID, capture_of(SOME, side=62).SOPInstanceUID}
    assert len(uids) == 2


def test_a_capture_takes_rgb_only():
    with pytest.raises(ValueError, match="takes"):
        secondary_capture(np.zeros((4, 4), np.uint8), SOME, radiograph())


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs the Debian package dicom3tools")
def test_dciodvfy_finds_no_error(tmp_path: Path):
    for number, source in enumerate(sources(tmp_path)):
        size = (int(source.Rows), int(source.Columns))
        boxes = [[0, 0, size[1], size[0]]] * 14
        for findings in (found([], size_hw=size, p_abnormal=0.0), found(boxes, size_hw=size)):
            for name, made in (
                ("sr", report_of(findings, source)),
                ("sc", capture_of(findings, source)),
                ("jpeg", capture_of(findings, source, jpeg_quality=95)),
            ):
                path = tmp_path / f"made-{number}-{name}.dcm"
                path.write_bytes(to_bytes(made))
                assert errors_of(path) == []


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="needs the Debian package dcmtk")
def test_dsrdump_reads_every_finding(tmp_path: Path):
    path = tmp_path / "sr.dcm"
    path.write_bytes(to_bytes(report_of(SOME)))
    shown = run_tool("dsrdump", "+Pc", "+Pl", str(path))
    assert shown.startswith("Comprehensive SR Document")
    assert shown.count("SCOORD:") == 2 * 4
    assert '(287272002,SCT,"Cardiomegaly")' in shown
    assert 'TEXT:(111001,DCM,"Algorithm Name")="retina_5cls-0123456789ab"' in shown
    assert '"0.33333333333333" (1,UCUM,"no units")' in shown
    assert "(POLYLINE,0/0,200/0,200/300,0/300,0/0)" in shown


@pytest.mark.skipif(shutil.which("dcm2pnm") is None, reason="needs the Debian package dcmtk")
def test_dcmtk_draws_the_capture(tmp_path: Path):
    import cv2

    path, target = tmp_path / "sc.dcm", tmp_path / "sc.ppm"
    capture = capture_of(SOME)
    path.write_bytes(to_bytes(capture))
    subprocess.run(["dcm2pnm", "+op", str(path), str(target)], check=True)
    assert np.array_equal(cv2.cvtColor(cv2.imread(str(target)), cv2.COLOR_BGR2RGB), capture.pixel_array)


@pytest.mark.parametrize("times", [1, 3])
def test_findings_are_those_that_highdicom_would_write(monkeypatch: pytest.MonkeyPatch, times: int):
    """All groups made by highdicom, and given to it at once, make the same bytes, only slower."""
    from cxr_mmdet.dicom import structured_report as writer
    from cxr_mmdet.dicom.finding_groups import tracking_identifier, tracking_uid, whole_group

    names = (*LABELS_14[:13], "Verschattung größer 3 cm")
    scores = np.array([1.0, 1e-7, 2 / 3, 0.5] * times)
    findings = found(BOXES * times, [3, 8, 8, 13] * times, scores, class_names=names)
    source = radiograph()
    filled = to_bytes(report_of(findings, source))
    assert len(read_structured_report(filled)[0]) == len(scores)

    def at_once(report: Dataset, findings: Findings, origin: Any, document: str) -> None:
        groups = sr.ContentSequence()
        for number, finding in enumerate(findings, 1):
            names = tracking_identifier(number), tracking_uid(f"finding {number}", origin, document)
            row = finding.class_name, findings.model_id, *names, finding.box_xyxy, finding.score
            groups.extend(whole_group(*row, origin.sop_class_uid, origin.sop_instance_uid))
        container = sr.ContainerContentItem(dictionary.DCM.ImagingMeasurements, relationship_type="CONTAINS")
        container.ContentSequence = groups
        report.ContentSequence.insert(len(report.ContentSequence) - 1, container)

    monkeypatch.setattr(writer, "append_finding_groups", at_once)
    assert to_bytes(report_of(findings, source)) == filled


def test_a_report_can_be_read_changed_and_written_without_a_file_between():
    names = ("größer", "结节")
    findings = found([[1, 1, 2, 2]] * 4, [0, 1, 0, 1], class_names=names)
    report = report_of(findings)
    untouched = to_bytes(report)
    assert classes_of(read_structured_report(report)[0]) == [names[0], names[1]] * 2
    assert to_bytes(report) == untouched, "what has been looked at is written as before"
    group = report.ContentSequence[-2].ContentSequence[0]
    group.ContentSequence[0].TextValue = "changed"
    assert to_bytes(report) != untouched
    assert to_bytes(report_of(findings)) == untouched, "another report of the same class is not changed with it"


def test_many_findings_take_little_more_than_few():
    """Highdicom and pydicom take 36,000 calls to make a group and to write it; a hundred were half a second."""
    import cProfile
    import pstats

    def calls(count: int) -> int:
        findings, source = found([[1, 1, 20, 20]] * count, [5] * count), radiograph()
        to_bytes(report_of(findings, source))
        profile = cProfile.Profile()
        profile.runcall(lambda: to_bytes(report_of(findings, source)))
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    assert calls(51) - calls(1) < 50 * 10_000

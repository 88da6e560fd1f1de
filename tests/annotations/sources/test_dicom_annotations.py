"""Structured reports of any maker (TID 1500) and segmentations."""

from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from ohif_code import in_ohif, needs_ohif
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)
from report_builders import BOXES, CREATED, NOTHING, SOME

from cxr_mmdet.annotations.sources import read_source
from cxr_mmdet.dicom.report import structured_report, to_bytes
from cxr_mmdet.errors import TableError
from cxr_mmdet.structures.labels import LABELS_14

HEIGHT, WIDTH = 300, 200


def image(name):
    """Return a radiograph of noise; its UIDs follow from its name."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid(entropy_srcs=[name, kind]) for kind in "ab")
    dataset.PatientID, dataset.PatientName, dataset.StudyID, dataset.AccessionNumber = name, f"{name}^", "", ""
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyDate = dataset.StudyTime = ""
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = HEIGHT, WIDTH, 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    noise = np.random.default_rng(sum(map(ord, name))).integers(0, 255, (HEIGHT // 20, WIDTH // 20), np.uint8)
    dataset.PixelData = np.kron(noise, np.ones((20, 20), np.uint8)).tobytes()
    return dataset


def item(kind, code, meaning="", scheme="DCM", content=(), **values):
    """Return a content item."""
    dataset = Dataset()
    dataset.ValueType, dataset.RelationshipType = kind, "CONTAINS"
    dataset.ConceptNameCodeSequence = [coded(code, meaning, scheme)]
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if content:
        dataset.ContentSequence = list(content)
    return dataset


def coded(value, meaning, scheme="DCM"):
    return hd.sr.CodedConcept(value, scheme, meaning or "meaning")


def region(kind, points, source):
    """Return an outline on a radiograph."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    image = item("IMAGE", "121112", "Source of Measurement", ReferencedSOPSequence=[reference])
    return item("SCOORD", "111030", "Image Region", content=[image], GraphicType=kind, GraphicData=points)


def group(*content):
    return item("CONTAINER", "125007", "Measurement Group", content=content)


def finding(meaning, code="CORNERSTONEFREETEXT", scheme="CORNERSTONEJS"):
    """Return a finding as OHIF writes what its user typed."""
    return item("CODE", "121071", "Finding", ConceptCodeSequence=[coded(code, meaning, scheme)])


def report(*groups, person="Doe^Jane", source=None):
    """Return a report as a viewer's adapter writes it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = "SR"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "1500"
    dataset.ContentTemplateSequence = [template]
    if source is not None:
        study, series, reference = Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        series.SeriesInstanceUID, series.ReferencedSOPSequence = source.SeriesInstanceUID, [reference]
        study.StudyInstanceUID, study.ReferencedSeriesSequence = source.StudyInstanceUID, [series]
        dataset.CurrentRequestedProcedureEvidenceSequence = [study]
    dataset.ContentSequence = [
        item("PNAME", "121008", "Person Observer Name", PersonName=person),
        item("CONTAINER", "126010", "Imaging Measurements", content=groups),
    ]
    return dataset


@pytest.fixture
def save(tmp_path):
    """Write data sets by name and return the folder."""

    def write(**datasets):
        for name, dataset in datasets.items():
            path = tmp_path / ("images" if dataset.Modality == "CR" else "annotations") / f"{name}.dcm"
            path.parent.mkdir(exist_ok=True)
            dataset.save_as(path, enforce_file_format=True)
        return tmp_path

    return write


def measured(*content):
    """Return a measurement that is inferred from a region, as OHIF nests it."""
    return item("NUM", "42798000", "Area", "SCT", content=content)


def test_outlines_of_any_shape_become_boxes(save, boxes_of):
    a = image("a")
    rectangle = [10, 20, 50, 20, 50, 80, 10, 80, 10, 20]
    groups = (
        group(
            finding("Nodule"), measured(region("POLYLINE", rectangle, a)), measured(region("POLYLINE", rectangle, a))
        ),
        group(item("TEXT", "121106", "Comment", TextValue="Mass"), region("CIRCLE", [100, 100, 103, 104], a)),
        group(finding("Mass", "4147007", "SCT"), region("ELLIPSE", [60, 50, 80, 50, 70, 45, 70, 55], a)),
        group(measured(region("POLYLINE", [1, 2, 30, 40], a))),  # a length
        group(finding("Here"), region("POINT", [1, 2], a)),
    )
    source = read_source(save(a=a, sr=report(*groups, source=a)))
    assert source.format == "dicom"
    assert boxes_of(source) == [
        ("a", "Nodule", (10, 20, 50, 80)),
        ("a", "Mass", (100 - 5, 100 - 5, 100 + 5, 100 + 5)),
        ("a", "Mass", (60, 45, 80, 55)),
    ]
    assert source.rows["reader"].unique().tolist() == ["Doe Jane"]
    assert source.notes[0] == "2 points and lines in reports left out: not regions."
    assert source.images["a"].name == "a.dcm"


def test_readers_and_readings_without_a_region_are_kept(save, boxes_of):
    a, b = image("a"), image("b")
    box = region("POLYLINE", [1, 2, 3, 2, 3, 4, 1, 4], a)
    source = read_source(
        save(a=a, b=b, r1=report(group(finding("Nodule"), box), source=a), r2=report(person="Roe^Jim", source=a))
    )
    assert boxes_of(source) == [("a", "Nodule", (1, 2, 3, 4)), ("a", "No finding", None)]
    assert source.rows["reader"].tolist() == ["Doe Jane", "Roe Jim"], "b was read by nobody"
    assert source.unread_is_known


def test_what_a_user_of_ohif_types_is_the_class(save, boxes_of):
    a = image("a")
    corners = [1, 2, 3, 2, 3, 4, 1, 4, 1, 2]
    tool = item("TEXT", "112039", "Tracking Identifier", TextValue="Cornerstone3DTools@^0.1.0:RectangleROI")
    texts = ("Nodule/Mass 0.25", "Consolidation", "Nodule, new")
    comments = [item("TEXT", "121106", "Comment", TextValue=text) for text in texts]
    stale = finding("Nodule/Mass", "294BC88124D2", "99CXRMMDET")
    groups = [
        group(tool, *extra, measured(region("POLYLINE", [side + n for side in corners], a)), comment)
        for n, (extra, comment) in enumerate(zip([[stale], [stale], []], comments, strict=True))
    ]
    source = read_source(save(a=a, sr=report(*groups, person="unknown^unknown", source=a)))
    assert [name for _, name, _ in boxes_of(source)] == ["Nodule/Mass", "Consolidation", "Nodule, new"]
    assert source.rows["reader"].unique().tolist() == ["R1"], "nobody was logged in"


@needs_ohif
def test_a_report_that_ohif_stored_is_read_as_its_user_left_it(save, boxes_of, tmp_path):
    a = image("a")
    made = structured_report(SOME, a, created=CREATED)
    save(a=a)
    (tmp_path / "annotations").mkdir()
    edits = {
        "moved": {"1": [20, 30, 60, 80]},
        "renamed": {"2": "Consolidation"},
        "deleted": [0],
        "added": [{"box": [100, 110, 150, 190], "label": "Nodule, new"}],
    }
    path = tmp_path / "annotations/stored.dcm"
    scratch = tmp_path / ".ohif"
    scratch.mkdir()
    correction = {"image": a.SOPInstanceUID, "edits": edits, "reader": "Doe^Jane", "path": str(path)}
    in_ohif(scratch, [made], [a], correction=correction)
    source = read_source(tmp_path)
    assert boxes_of(source) == [
        ("a", "Nodule/Mass", (20, 30, 60, 80)),
        ("a", "Consolidation", tuple(BOXES[2])),
        ("a", "Pulmonary fibrosis", tuple(BOXES[3])),
        ("a", "Nodule, new", (100, 110, 150, 190)),
    ]
    assert source.rows["reader"].unique().tolist() == ["Doe Jane"]


def test_a_report_of_another_kind_is_no_reading(save, boxes_of):
    a, b = image("a"), image("b")
    box = region("POLYLINE", [1, 2, 3, 2, 3, 4, 1, 4], a)
    other = report(person="Roe^Jim", source=b)
    del other.ContentTemplateSequence
    source = read_source(save(a=a, b=b, r1=report(group(finding("Nodule"), box), source=a), r2=other))
    assert boxes_of(source) == [("a", "Nodule", (1, 2, 3, 4))]


def test_our_own_reports_are_read_by_their_classes(save, boxes_of):
    a, b = image("a"), image("b")
    files = {
        name: dcmread(BytesIO(to_bytes(structured_report(f, s, created=CREATED))))
        for name, f, s in (("x", SOME, a), ("y", NOTHING, b))
    }
    source = read_source(save(a=a, b=b, **files))
    found = [(name, np.float32(box).tolist()) for _, name, box in boxes_of(source)[:-1]]
    assert found == [(LABELS_14[n], np.float32(box).tolist()) for n, box in zip([3, 8, 8, 13], BOXES, strict=True)]
    assert boxes_of(source)[-1] == ("b", "No finding", None)
    assert source.rows["reader"].unique().tolist() == ["retina_5cls-0123456789ab"]


def test_a_region_without_a_class_is_named(save):
    a = image("a")
    with pytest.raises(TableError, match=r"bad.dcm: a region has neither Finding nor Comment; name its finding"):
        read_source(save(a=a, bad=report(group(region("POLYLINE", [1, 2, 3, 2, 3, 4], a)), source=a)))


@pytest.mark.parametrize("points", [[1], [1, 2, 3], None])
def test_a_circle_without_its_two_points_is_named(save, points):
    a = image("a")
    bad = report(group(finding("Nodule"), region("CIRCLE", points, a)), source=a)
    with pytest.raises(TableError, match=r"bad.dcm: cannot be read as a structured report by TID 1500"):
        read_source(save(a=a, bad=bad))


def test_a_folder_of_radiographs_alone_is_not_taken_for_annotations(save):
    with pytest.raises(TableError, match="holds no annotations of a known format"):
        read_source(save(a=image("a")))


def test_segments_become_a_box_per_connected_part(save, boxes_of):
    a = image("a")
    mask = np.zeros((1, HEIGHT, WIDTH, 2), np.uint8)
    mask[0, 10:40, 20:60, 0] = mask[0, 100:120, 100:101, 0] = mask[0, 200:250, 50:80, 1] = 1
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Nodule,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, label in ((1, "Nodule"), (2, "Mass"))
    ]
    segmentation = hd.seg.Segmentation(
        source_images=[a],
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="maker",
        manufacturer_model_name="model",
        software_versions="1",
        device_serial_number="1",
        content_creator_name="Doe^Jane",
    )
    source = read_source(save(a=a, seg=segmentation))
    assert boxes_of(source) == [
        ("a", "Nodule", (20, 10, 60, 40)),
        ("a", "Nodule", (100, 100, 101, 120)),
        ("a", "Mass", (50, 200, 80, 250)),
    ]
    assert source.rows["reader"].unique().tolist() == ["Doe Jane"]
    assert source.rows.loc[0, ["table_height", "table_width"]].tolist() == [HEIGHT, WIDTH]

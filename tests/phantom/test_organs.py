"""The organs' boxes hold the organs as they were drawn, and nothing outside of the field."""

import dataclasses

import numpy as np
import pytest

from cxr_mmdet.phantom import PlannedFinding, chest, plan_case, render_phantom, skeleton
from cxr_mmdet.phantom.organs import ORGANS
from cxr_mmdet.phantom.render import AORTA, HEART, frame_of, scene_of
from cxr_mmdet.structures.labels import LABELS_14

SIZE = 288


def case_of(index, findings=(), **view):
    case = plan_case(3, index, abnormal_share=0, labels=LABELS_14)
    view = {"collimation": (0.0, 0.0, 0.0, 0.0), "margin": 30.0, **view}
    return dataclasses.replace(case, findings=findings, view=dataclasses.replace(case.view, **view))


def organs_of(case):
    return dict(render_phantom(case, size=SIZE).organs)


@pytest.mark.parametrize("index", range(6))
def test_lungs_end_where_their_air_ends(index):
    case = case_of(index)
    air = scene_of(case, frame_of(case, SIZE), ()).chest.lung > 2
    middle = np.array(organs_of(case)["Trachea"])[[0, 2]].mean()
    columns = np.arange(air.shape[1])
    for name, here in (("Right lung", columns < middle), ("Left lung", columns > middle)):
        rows, found = np.nonzero(air & here)
        left, top, right, bottom = organs_of(case)[name]
        outer = (left, found.min()) if name == "Right lung" else (right, found.max() + 1)
        assert outer[0] == pytest.approx(outer[1], abs=3)
        assert top == pytest.approx(rows.min(), abs=3)
        assert bottom == pytest.approx(rows.max() + 1, abs=4)
        # Behind the heart there is lung as well: up to a finger's breadth from the midline.
        assert abs((right if name == "Right lung" else left) - middle) < 0.1 * SIZE


@pytest.mark.parametrize(("finding", "organ"), [(HEART, "Heart"), (AORTA, "Aortic arch")])
def test_an_enlarged_organ_has_the_box_of_its_finding(finding, organ):
    case = case_of(4, (PlannedFinding(finding, 0.7, 0),))
    phantom = render_phantom(case, size=SIZE)
    assert dict(phantom.organs)[organ] == phantom.findings[0].box_xyxy
    healthy = dict(render_phantom(case, size=SIZE, omit=(0,)).organs)[organ]
    assert healthy == organs_of(case_of(4))[organ] != phantom.findings[0].box_xyxy


def extent(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_airways_and_clavicles_end_where_they_are_drawn(monkeypatch):
    case = case_of(1)
    frame = frame_of(case, SIZE)
    scene, organs = scene_of(case, frame, ()), organs_of(case)
    air = chest._airways(frame, scene.anatomy) > 4
    boxes = np.array([organs["Trachea"], organs["Carina"]])
    union = [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]
    np.testing.assert_allclose(union, extent(air), atol=3)
    bone = skeleton.draw_skeleton(frame, case.patient, case.view, scene.anatomy)
    monkeypatch.setattr(skeleton, "collarbones", lambda *_: [])
    clavicles = bone - skeleton.draw_skeleton(frame, case.patient, case.view, scene.anatomy) > 2
    middle = int((organs["Right clavicle"][2] + organs["Left clavicle"][0]) / 2)
    is_right = np.arange(SIZE) < middle
    np.testing.assert_allclose(organs["Right clavicle"], extent(clavicles & is_right), atol=3)
    np.testing.assert_allclose(organs["Left clavicle"], extent(clavicles & ~is_right), atol=3)


@pytest.mark.parametrize("index", range(4))
def test_boxes_are_whole_and_inside_the_field(index):
    borders = (0.1, 0.04, 0.0, 0.2)
    case = case_of(index, collimation=borders, shift=(25.0, -60.0))
    phantom = render_phantom(case, size=SIZE)
    height, width = phantom.image.shape
    left, top, right, bottom = (round(SIZE * border) for border in borders)
    assert [name for name in ORGANS if name in dict(phantom.organs)] == [name for name, _ in phantom.organs]
    for _, box in phantom.organs:
        assert left <= box[0] < box[2] <= width - right
        assert top <= box[1] < box[3] <= height - bottom
        assert box == tuple(map(round, box))


def test_what_lies_outside_the_field_has_no_box():
    above = organs_of(case_of(2, shift=(0.0, -260.0)))
    assert not above.keys() & {"Trachea", "Left clavicle", "Right clavicle"}
    assert "Left hemidiaphragm" in above

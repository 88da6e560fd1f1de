"""The image: where things are, what is dark and what is bright, and that every box holds its finding."""

import dataclasses

import numpy as np
import pytest

from cxr_mmdet.phantom import PlannedFinding, plan_case, render_phantom
from cxr_mmdet.phantom.anatomy import CAGE_HALF_WIDTH, LEFT, RIGHT, build_anatomy
from cxr_mmdet.phantom.render import AORTA, HEART, OPACITY, draw_findings, frame_of, scene_of
from cxr_mmdet.structures.boxes import iou_matrix
from cxr_mmdet.structures.labels import LABELS_14

SIZE = 320
DRAWN = [label for label in LABELS_14 if label not in (AORTA, HEART)]
VISIBLE = 0.03
"""A difference in grey that one can see."""


def with_finding(label, severity, index, seed=5):
    case = plan_case(seed, index, abnormal_share=0, labels=LABELS_14)
    return dataclasses.replace(case, findings=(PlannedFinding(label, severity, index),))


def change(case, size=SIZE):
    """Return the image's change by the finding, and the true boxes."""
    ill, healthy = render_phantom(case, size=size), render_phantom(case, size=size, omit=(0,))
    assert healthy.findings == ()
    return np.abs(ill.image - healthy.image), [finding.box_xyxy for finding in ill.findings]


def inside(boxes, shape):
    mask = np.zeros(shape, bool)
    for x_min, y_min, x_max, y_max in boxes:
        mask[int(y_min) : int(y_max), int(x_min) : int(x_max)] = True
    return mask


@pytest.mark.parametrize("label", LABELS_14)
@pytest.mark.parametrize(("severity", "index"), [(0.1, 400), (0.5, 401), (0.95, 402)])
class TestEveryFinding:
    def test_is_drawn_within_its_boxes_and_nowhere_else(self, label, severity, index):
        difference, boxes = change(with_finding(label, severity, index))
        mask = inside(boxes, difference.shape)
        seen = difference > VISIBLE
        assert seen.sum() > 12
        # The console's contrast enhancement leaves a faint halo outside.
        assert (seen & mask).sum() > 0.9 * seen.sum()
        assert difference[mask].mean() > 8 * difference[~mask].mean()

    def test_has_whole_boxes_inside_the_image(self, label, severity, index):
        case = with_finding(label, severity, index)
        phantom = render_phantom(case, size=SIZE)
        height, width = phantom.image.shape
        assert phantom.findings
        for finding in phantom.findings:
            x_min, y_min, x_max, y_max = finding.box_xyxy
            assert 0 <= x_min < x_max <= width
            assert 0 <= y_min < y_max <= height
            assert finding.box_xyxy == tuple(map(round, finding.box_xyxy))
            assert (finding.label, finding.severity) == (label, severity)


@pytest.mark.parametrize("label", DRAWN)
def test_no_shadow_is_cut_off_by_its_window(label):
    for index in range(700, 706):
        case = with_finding(label, (index - 699) / 7, index)
        frame = frame_of(case, 192)
        height, width = frame.size_hw
        shadows = [shadow for _, shadow in draw_findings(case, scene_of(case, frame, case.findings))[0]]
        assert shadows
        for shadow in shadows:
            x_min, y_min, x_max, y_max = shadow.box_xyxy
            assert x_min > shadow.columns.start or x_min == 0
            assert y_min > shadow.rows.start or y_min == 0
            assert x_max < shadow.columns.stop or x_max == width
            assert y_max < shadow.rows.stop or y_max == height


@pytest.mark.parametrize("label", DRAWN)
def test_boxes_are_tight(label):
    """The visible change reaches close to every side of the box, in most images."""
    reached = []
    for index in range(410, 414):
        difference, boxes = change(with_finding(label, 0.7, index))
        peak = difference.max()
        for x_min, y_min, x_max, y_max in (map(int, box) for box in boxes):
            part = difference[y_min:y_max, x_min:x_max] > 0.1 * peak
            rows, columns = np.nonzero(part.any(axis=1))[0], np.nonzero(part.any(axis=0))[0]
            if len(rows) == 0:
                continue
            slack_y = (rows[0] + part.shape[0] - 1 - rows[-1]) / part.shape[0]
            slack_x = (columns[0] + part.shape[1] - 1 - columns[-1]) / part.shape[1]
            reached.append(max(slack_x, slack_y))
    assert np.median(reached) < 0.2


@pytest.mark.parametrize(("label", "least"), [(AORTA, 0.1), (HEART, 0.3), ("ILD", 0.15), ("Infiltration", 0.08)])
def test_the_large_findings_are_large_enough_for_a_small_detector(label, least):
    for index in range(420, 426):
        phantom = render_phantom(with_finding(label, 0.5, index), size=SIZE)
        assert all(finding.box_xyxy[2] - finding.box_xyxy[0] > least * SIZE for finding in phantom.findings)


@pytest.fixture(scope="module")
def pneumonias():
    def case(index):
        planned = plan_case(5, index, abnormal_share=0, labels=LABELS_14, bedside_share=1)
        return dataclasses.replace(planned, findings=(PlannedFinding(OPACITY, 0.1 + 0.045 * (index - 440), index),))

    return [case(index) for index in range(440, 460)]


def test_pneumonias_lie_within_their_boxes(pneumonias):
    shares = []
    for case in pneumonias[::3]:
        difference, boxes = change(case, 160)
        mask, seen = inside(boxes, difference.shape), difference > VISIBLE
        shares.append((seen & mask).sum() / seen.sum())
        assert difference[mask].mean() > 8 * difference[~mask].mean()
    assert np.mean(shares) > 0.93  # the console's contrast enhancement leaves a halo around the large and dense


def test_pneumonias_are_large_tall_and_mostly_of_both_lungs(pneumonias):
    """The quartiles of readers' boxes on real radiographs: width 0.18-0.25, height 0.20-0.37 of the image."""
    frames = [frame_of(case, 128) for case in pneumonias]
    drawn = [draw_findings(case, scene_of(case, frame, ()))[0] for case, frame in zip(pneumonias, frames, strict=True)]
    sides = np.array([(x_max - x_min, y_max - y_min) for found in drawn for (x_min, y_min, x_max, y_max), _ in found])
    width, height = np.median(sides, axis=0) / 128
    assert 0.17 < width < 0.26
    assert 0.2 < height < 0.38
    assert 0.4 < np.mean([len(found) == 2 for found in drawn]) < 0.9


def test_most_nodules_are_wider_than_a_thirtieth_of_the_image():
    widths = [
        finding.box_xyxy[2] - finding.box_xyxy[0]
        for index in range(430, 450)
        for finding in render_phantom(with_finding("Nodule/Mass", 0.5, index), size=SIZE).findings
    ]
    assert np.mean(np.array(widths) > 0.035 * SIZE) > 0.7
    assert max(widths) > 2.5 * min(widths)


def test_an_omitted_finding_leaves_the_others_and_the_noise_alone():
    case = plan_case(5, 500, abnormal_share=0, labels=LABELS_14)
    planned = (PlannedFinding("Pleural effusion", 0.6, 0), PlannedFinding("Nodule/Mass", 0.9, 1))
    case = dataclasses.replace(case, findings=planned)
    both, first = render_phantom(case, size=SIZE), render_phantom(case, size=SIZE, omit=(1,))
    assert first.findings == tuple(finding for finding in both.findings if finding.label == "Pleural effusion")
    far = ~inside([finding.box_xyxy for finding in both.findings if finding.label == "Nodule/Mass"], both.image.shape)
    assert np.median(np.abs(both.image - first.image)[far]) < 1e-4


def test_findings_do_not_pile_up():
    case = plan_case(5, 501, abnormal_share=0, labels=LABELS_14)
    labels = ("Nodule/Mass", "Lung Opacity", "Calcification", "Infiltration")
    case = dataclasses.replace(case, findings=tuple(PlannedFinding(label, 0.3, i) for i, label in enumerate(labels)))
    boxes = [finding.box_xyxy for finding in render_phantom(case, size=SIZE).findings]
    assert (iou_matrix(boxes, boxes) - np.eye(len(boxes))).max() < 0.35


class TestAnatomy:
    @pytest.mark.parametrize("index", range(6))
    def test_heart_width_is_the_planned_share_of_the_chest(self, index):
        case = plan_case(8, index, abnormal_share=0, labels=LABELS_14)
        for ratio in (0.42, 0.6):
            anatomy = build_anatomy(case.patient, case.view, heart_ratio=ratio)
            width = np.ptp(anatomy.heart[:, 0]) / (2 * CAGE_HALF_WIDTH * case.patient.scale_x)
            assert width == pytest.approx(ratio, abs=0.01)

    @pytest.mark.parametrize("severity", [0.0, 1.0])
    def test_cardiomegaly_is_wider_than_half_the_chest(self, severity):
        case = with_finding(HEART, severity, 600)
        phantom = render_phantom(case, size=SIZE)
        x_min, _, x_max, _ = phantom.findings[0].box_xyxy
        chest = 2 * CAGE_HALF_WIDTH * case.patient.scale_x / phantom.spacing
        assert (x_max - x_min) / chest > 0.52

    def test_right_diaphragm_stands_higher(self):
        for index in range(20):
            case = plan_case(8, index, abnormal_share=0, labels=LABELS_14)
            anatomy = build_anatomy(case.patient, case.view)
            assert anatomy.diaphragm_y(RIGHT, -70.0) < anatomy.diaphragm_y(LEFT, 70.0)

    def test_heart_reaches_farther_to_the_patients_left(self):
        case = plan_case(8, 3, abnormal_share=0, labels=LABELS_14)
        heart = build_anatomy(case.patient, case.view).heart
        assert heart[:, 0].max() > -heart[:, 0].min() > 0


@pytest.fixture(scope="module")
def healthy():
    return [render_phantom(plan_case(8, index, abnormal_share=0, labels=LABELS_14), size=SIZE) for index in range(12)]


class TestImage:
    def test_greys_stay_in_range_and_use_it(self, healthy):
        for phantom in healthy:
            assert phantom.image.dtype == np.float32
            assert 0 <= phantom.image.min() < 0.05
            assert 0.7 < phantom.image.max() <= 1

    def test_short_edge_is_the_size_and_shapes_vary(self, healthy):
        assert {min(phantom.image.shape) for phantom in healthy} == {SIZE}
        assert len({phantom.image.shape for phantom in healthy}) > 2

    def test_air_is_black_lungs_are_dark_heart_and_belly_are_bright(self, healthy):
        for phantom in healthy:
            frame = frame_of(phantom.case, SIZE)
            scale = (phantom.case.patient.scale_x, phantom.case.patient.scale_y)

            def grey(x, y, frame=frame, scale=scale, phantom=phantom):
                column, row = np.round(frame.to_pixels([(x * scale[0], y * scale[1])])[0]).astype(int)
                return np.median(phantom.image[row - 6 : row + 7, column - 6 : column + 7])

            lungs = [grey(side * 75, y) for side in (RIGHT, LEFT) for y in (-40, -10)]
            heart = grey(15, 60)
            belly = grey(-60, 145)
            assert max(lungs) < 0.55
            assert heart > np.mean(lungs) + 0.2
            assert belly > np.mean(lungs) + 0.2

    def test_patients_look_different(self, healthy):
        square = [phantom.image[:SIZE, :SIZE].ravel() for phantom in healthy[:4]]
        assert np.corrcoef(square)[np.triu_indices(4, 1)].max() < 0.995

    def test_size_changes_the_resolution_only(self):
        case = plan_case(8, 1, abnormal_share=1, labels=LABELS_14)
        small, large = render_phantom(case, size=256), render_phantom(case, size=512)
        assert small.spacing == pytest.approx(2 * large.spacing)
        assert [finding.label for finding in small.findings] == [finding.label for finding in large.findings]
        height = min(small.image.shape[0], large.image.shape[0] // 2)
        shrunk = large.image[: 2 * height].reshape(height, 2, 256, 2).mean(axis=(1, 3))
        assert np.abs(small.image[:height] - shrunk).mean() < 0.03
        overlap = iou_matrix(
            [finding.box_xyxy for finding in small.findings],
            [tuple(v / 2 for v in finding.box_xyxy) for finding in large.findings],
        )
        assert np.median(np.diag(overlap)) > 0.8

    def test_equal_cases_give_equal_images(self):
        case = plan_case(8, 2, abnormal_share=1, labels=LABELS_14)
        first, second = (render_phantom(case, size=SIZE) for _ in range(2))
        assert np.array_equal(first.image, second.image)
        assert first.findings == second.findings

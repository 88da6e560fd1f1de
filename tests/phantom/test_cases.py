"""Who is ill with what: frequencies, patients, and independence of one image from another."""

from collections import Counter

import numpy as np
import pytest

from cxr_mmdet.phantom import plan_case
from cxr_mmdet.phantom.cases import BEDSIDE_FREQUENCY, FREQUENCY
from cxr_mmdet.phantom.patient import Stream, draw_patient, generator, patient_number
from cxr_mmdet.structures.labels import LABELS_5, LABELS_14


def plans(count, *, share=1.0, labels=LABELS_14, seed=2):
    return [plan_case(seed, index, abnormal_share=share, labels=labels) for index in range(count)]


def test_frequencies_cover_the_labels():
    assert tuple(FREQUENCY) == LABELS_14


def test_classes_are_as_frequent_as_in_vinbigdata():
    cases = plans(4000)
    count = Counter(finding.label for case in cases for finding in case.findings)
    for label, frequency in FREQUENCY.items():
        # Images of one patient share their findings, so the sample is a little smaller than it looks.
        deviation = np.sqrt(frequency * (1 - frequency) / 3300)
        # Drawing again when nothing came up lifts every class by at most the share of such draws, about 2 %.
        assert abs(count[label] / len(cases) - frequency) < 4 * deviation + 0.03 * frequency, label


def test_abnormal_images_hold_several_classes_each_once():
    numbers = []
    for case in plans(500):
        labels = [finding.label for finding in case.findings]
        assert len(labels) == len(set(labels))
        numbers.append(len(labels))
    assert 2.8 < np.mean(numbers) < 4.2  # 3.5 in VinBigData
    assert min(numbers) == 1


def test_heart_and_aorta_come_together():
    cases = plans(3000)
    both, aorta, heart = 0, 0, 0
    for case in cases:
        labels = {finding.label for finding in case.findings}
        aorta += "Aortic enlargement" in labels
        heart += "Cardiomegaly" in labels
        both += {"Aortic enlargement", "Cardiomegaly"} <= labels
    # 0.45 of VinBigData's abnormal images hold both, 0.365 would by chance.
    assert both / len(cases) > 1.08 * aorta * heart / len(cases) ** 2


def test_enlarged_hearts_belong_to_older_patients():
    cases = plans(1500)
    ages = {True: [], False: []}
    for case in cases:
        ages["Cardiomegaly" in {finding.label for finding in case.findings}].append(case.patient.age)
    assert np.mean(ages[True]) > np.mean(ages[False]) + 4


@pytest.mark.parametrize("share", [0.1, 0.3, 0.75])
@pytest.mark.parametrize("count", [40, 300])
def test_share_is_kept_in_small_sets(share, count):
    ill = sum(bool(case.findings) for case in plans(count, share=share))
    assert abs(ill / count - share) < 0.08


def test_nobody_is_ill_at_share_0_and_everybody_at_1():
    assert not any(case.findings for case in plans(60, share=0.0))
    assert all(case.findings for case in plans(60, share=1.0))


@pytest.mark.parametrize("labels", [LABELS_5, ("Pneumothorax",), ("ILD", "Atelectasis")])
def test_only_the_asked_labels_occur(labels):
    cases = plans(80, labels=labels)
    assert {finding.label for case in cases for finding in case.findings} <= set(labels)
    assert all(case.findings for case in cases)


def test_severities_are_mostly_visible_and_sometimes_subtle():
    severities = np.array([finding.severity for case in plans(400) for finding in case.findings])
    assert 0 <= severities.min() < 0.1
    assert 0.9 < severities.max() <= 1
    assert np.mean(severities > 0.3) > 0.75


def test_an_image_does_not_depend_on_how_many_there_are():
    assert plans(10) == plans(30)[:10]


def test_seeds_differ():
    assert plans(5, seed=1) != plans(5, seed=2)


def test_some_patients_have_two_images_and_share_build_and_disease():
    cases = plans(200)
    pairs = [(a, b) for a, b in zip(cases[::2], cases[1::2], strict=True) if a.patient.number == b.patient.number]
    assert 0.1 < len(pairs) / 100 < 0.32
    for first, second in pairs:
        assert first.patient == second.patient == draw_patient(2, first.index)
        assert first.findings == second.findings
        assert first.view != second.view
    assert {patient_number(2, index) for index in range(200)} == {case.patient.number for case in cases}


class TestBedside:
    def test_its_share_is_kept_and_everybody_else_stays_the_same(self):
        ordinary = plans(300)
        mixed = [plan_case(2, i, abnormal_share=1, labels=LABELS_14, bedside_share=0.4) for i in range(300)]
        assert abs(sum(case.bedside for case in mixed) / 300 - 0.4) < 0.08
        assert not any(case.bedside for case in ordinary)
        assert all(case == other for case, other in zip(mixed, ordinary, strict=True) if not case.bedside)

    def test_breath_is_shallow_and_filled_air_spaces_are_opacities(self):
        cases = [plan_case(2, i, abnormal_share=1, labels=LABELS_14, bedside_share=1) for i in range(300)]
        labels = Counter(finding.label for case in cases for finding in case.findings)
        assert {case.view.projection for case in cases} == {"AP"}
        assert np.mean([case.view.inspiration for case in cases]) < -0.8
        assert labels["Consolidation"] == labels["Infiltration"] == 0
        assert labels["Lung Opacity"] / 300 == pytest.approx(BEDSIDE_FREQUENCY["Lung Opacity"], abs=0.08)


def test_streams_are_independent_of_one_another():
    draws = {stream: generator(1, stream, 7).random() for stream in Stream}
    assert len(set(draws.values())) == len(Stream)
    assert generator(1, Stream.VIEW, 7).random() == draws[Stream.VIEW]


def test_healthy_hearts_and_knobs_leave_a_gap_to_the_enlarged():
    patients = [draw_patient(9, number) for number in range(2000)]
    assert max(patient.heart_ratio for patient in patients) < 0.48
    assert max(patient.knob_radius for patient in patients) < 17.5

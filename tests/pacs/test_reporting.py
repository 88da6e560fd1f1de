"""What is reported, and what libraries may say meanwhile."""

from __future__ import annotations

import datetime
import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from node_builders import FINDINGS, predictor, write_phantoms
from pydicom import Dataset

from cxr_mmdet.inference.predictor import Predictor, Thresholds
from cxr_mmdet.pacs.reporting import ReportOptions, describe_findings, predict_content, quiet_libraries
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIBRARIES = ("pydicom", "highdicom", "pynetdicom")


def test_no_more_findings_are_reported_than_asked_for():
    detections = Detections([[0, 0, 2, 2]] * 3, [0, 1, 2], [0.2, 0.6, 0.5], LABELS_14)
    found = Findings.of(detections, size_hw=(8, 8), model_id="tiny")
    assert ReportOptions().limited(found).scores.tolist() == [0.6, 0.5, 0.2]
    assert ReportOptions(max_findings=1).limited(found).scores.tolist() == [0.6]
    assert len(ReportOptions(max_findings=0).limited(FINDINGS)) == 0


def test_a_threshold_below_the_models_own_acts(tmp_path: Path):
    """It only ever thinned out what the model's own threshold had left."""
    model, own = predictor().model, 0.6
    spec = replace(model.spec, maps=replace(model.spec.maps, score_threshold=own))
    tiny = Predictor(replace(model, spec=spec))
    (path,) = write_phantoms(tmp_path, 1)
    low, usual = (
        describe_findings(
            predict_content(tiny, path.read_bytes(), "a", options), options, datetime.datetime(2026, 1, 1)
        )
        for options in (ReportOptions(own / 2, capture=False), ReportOptions(own, capture=False))
    )
    assert own / 2 <= low.findings.scores.min() < own <= usual.findings.scores.min()
    assert low.findings.p_abnormal == usual.findings.p_abnormal
    assert ReportOptions().thresholds(0.05) == Thresholds(), "at the default nothing changes"


def test_classes_may_have_thresholds_of_their_own(tmp_path: Path):
    """Below and above the general one, and below the model's own; the rule is ``score >= threshold`` for each."""
    (path,) = write_phantoms(tmp_path, 1)

    def report(options: ReportOptions) -> Findings:
        prediction = predict_content(predictor(), path.read_bytes(), "a", options)
        return describe_findings(prediction, options, datetime.datetime(2026, 1, 1)).findings

    everything = report(ReportOptions(0.01, capture=False))
    ranked = sorted(everything, key=lambda finding: -finding.score)
    first, other = ranked[0], next(finding for finding in ranked if finding.label != ranked[0].label)
    limits = {first.class_name: first.score, other.class_name: other.score}
    found = report(ReportOptions(1.0, class_thresholds=limits, capture=True))
    assert {(finding.class_name, finding.score) for finding in found} == {
        (finding.class_name, finding.score)
        for finding in ranked
        if finding.score >= limits.get(finding.class_name, 1.0)
    }
    assert {finding.class_name for finding in found} == set(limits)
    assert len(report(ReportOptions(0.01, class_thresholds=dict.fromkeys(everything.class_names, 1.0)))) == 0


@pytest.fixture
def _restored() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in LIBRARIES}
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("_restored")
def test_no_remark_that_quotes_a_patients_header(caplog: pytest.LogCaptureFixture):
    def remark() -> None:
        Dataset().PatientBirthDate = "born in 1970"

    warnings.simplefilter("error")
    with pytest.raises(UserWarning, match="Invalid value for VR DA: 'born in 1970'"):
        remark()
    caplog.clear()
    quiet_libraries()
    remark()
    assert not caplog.records
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)

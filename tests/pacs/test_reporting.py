"""What is reported, and what libraries may say meanwhile."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import pytest
from node_builders import FINDINGS
from pydicom import Dataset

from cxr_mmdet.pacs.reporting import ReportOptions, quiet_libraries
from cxr_mmdet.structures.detections import Detections, Findings
from cxr_mmdet.structures.labels import LABELS_14

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARIES = ("pydicom", "highdicom", "pynetdicom")


def test_above_the_threshold_and_no_more_than_asked_for():
    detections = Detections([[0, 0, 2, 2]] * 3, [0, 1, 2], [0.2, 0.6, 0.5], LABELS_14)
    found = Findings.of(detections, size_hw=(8, 8), model_id="tiny")
    assert ReportOptions().reported(found).scores.tolist() == [0.6, 0.5]
    assert ReportOptions(max_findings=1).reported(found).scores.tolist() == [0.6]
    assert ReportOptions(0.0, max_findings=9).reported(found).scores.tolist() == [0.6, 0.5, 0.2]
    assert len(ReportOptions(max_findings=0).reported(FINDINGS)) == 0


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

"""The benchmark of the DICOM node, small: every radiograph comes back as two objects, and every step is timed."""

from __future__ import annotations

import json

import pytest
from detectors import bundle_of
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.dicom_peer import run_peer
from benchmarks.node import (
    BARE,
    DESCRIBE,
    FOLDER,
    KEEP,
    NETWORK,
    NODE,
    NODE_DOWN,
    PREDICT,
    RECEIVE,
    SEND,
    _write_phantoms,
)
from cxr_mmdet.errors import CxrError


def test_node_and_steps_as_json():
    options = ["--rounds", "2", "--images", "2", "--size", "96", "--threads", "1", "--score-threshold", "0.85"]
    result = CliRunner().invoke(app, ["node", str(bundle_of("retina", "onnx")), *options, "--json"])
    assert result.exit_code == 0, result.output
    throughput, steps = json.loads(result.stdout)["comparisons"]
    assert [entry["name"] for entry in throughput["alternatives"]] == [BARE, NETWORK, FOLDER, NODE, NODE_DOWN]
    assert [entry["name"] for entry in steps["alternatives"]] == [PREDICT, RECEIVE, DESCRIBE, KEEP, SEND]
    assert all(len(entry["wall_s"]) == 2 for entry in throughput["alternatives"] + steps["alternatives"])


def test_the_best_findings_of_each_whatever_their_score():
    options = [
        "--rounds",
        "1",
        "--images",
        "1",
        "--size",
        "96",
        "--threads",
        "1",
        "--findings",
        "0",
        "--findings",
        "7",
    ]
    result = CliRunner().invoke(app, ["node", str(bundle_of("retina", "onnx")), *options, "--json"])
    assert result.exit_code == 0, result.output
    titles = [comparison["title"] for comparison in json.loads(result.stdout)["comparisons"]]
    assert [title.rsplit(", ", 1)[1] for title in titles] == ["0 findings each"] * 2 + ["7 findings each"] * 2


def test_no_node_is_an_error(tmp_path):
    with run_peer(_write_phantoms(tmp_path / "phantoms", 1, 96)) as peer, pytest.raises(CxrError, match="association"):
        peer.send(9, 1, wait=True)  # nothing listens at the port of the discard service

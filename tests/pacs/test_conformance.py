"""The conformance statement: what it says is what peers see."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node_builders import run_node
from pydicom.uid import MPEG2MPML, UID
from pynetdicom import AE, build_context
from typer.testing import CliRunner

from cxr_mmdet.cli.dicom_node import app
from cxr_mmdet.dicom.codecs import DECODABLE

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dicom_conformance.md"


def _without_versions(text: str) -> str:
    return re.sub(r"(\| Version \| |3811\.|PYNETDICOM_)[\d.]+\w*", r"\1", text)


def test_the_document_is_what_the_code_says():
    done = CliRunner().invoke(app, ["conformance"])
    assert done.exit_code == 0, done.output
    document = DOCUMENT.read_text(encoding="utf-8")
    assert _without_versions(document) == _without_versions(done.stdout), (
        "run: cxr dicom_node conformance > docs/dicom_conformance.md"
    )


def test_a_peer_is_given_the_contexts_that_are_stated(tmp_path: Path):
    statement = DOCUMENT.read_text(encoding="utf-8").split("##### 4.2.1.4")[1].split("Answers to C-STORE")[0]
    stated = {
        (kind, syntax)
        for kind, cells in re.findall(r"\| (1\.2\.840\.[\d.]+) \| (.*?) \| SCP", statement)
        for syntax in re.findall(r"`([\d.]+)`", cells)
    }
    entity = AE("PEER")
    digital, computed, raw = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1.1", "1", "1.1.1"))
    accepted = set()
    model: Any = SimpleNamespace(workers=1)  # it is sent no radiograph
    with run_node(tmp_path / "state", "ARCHIVE@127.0.0.1:9", model=model) as node:
        for kind in ("1.2.840.10008.1.1", digital, computed, raw):
            contexts = [build_context(kind, UID(syntax)) for syntax in (*DECODABLE, MPEG2MPML)]
            association = entity.associate("127.0.0.1", node.port, contexts, ae_title="CXR")
            accepted |= {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
            association.release() if association.is_established else association.abort()
    assert accepted == stated

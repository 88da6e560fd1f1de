"""Encrypted associations, by certificates that openssl makes and dcmtk checks."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from node_builders import FINDINGS, HEADER, echoscu, make_certificate, missing, run_node, wait_for
from orthanc_server import free_port
from pydicom import dcmread

from cxr_mmdet.dicom.report import secondary_capture, to_bytes
from cxr_mmdet.errors import UsageError
from cxr_mmdet.pacs.config import Tls
from cxr_mmdet.pacs.sender import DimseDestination, NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_tools = pytest.mark.skipif(
    bool(missing("echoscu")) or shutil.which("openssl") is None, reason="needs the Debian packages dcmtk and openssl"
)


@needs_tools
def test_only_peers_with_a_certificate_get_in(tmp_path: Path):
    ours, our_key = make_certificate(tmp_path, "node")
    theirs, their_key = make_certificate(tmp_path, "peer")
    strangers, strangers_key = make_certificate(tmp_path, "stranger")
    tls = Tls(cert=ours, key=our_key, ca=theirs).for_listening()
    with run_node(tmp_path / "state", "NOBODY@127.0.0.1:9", tls=tls) as node:
        trust = ("+cf", str(ours))
        assert echoscu(node.port, "+tls", str(their_key), str(theirs), *trust).returncode == 0
        assert echoscu(node.port, "+tls", str(strangers_key), str(strangers), *trust).returncode != 0
        assert echoscu(node.port, "+tla", *trust).returncode != 0
        assert echoscu(node.port).returncode != 0  # in the clear
        assert echoscu(node.port, "+tls", str(their_key), str(theirs), *trust).returncode == 0


@needs_tools
def test_results_travel_encrypted_to_a_destination_whose_certificate_is_checked(tmp_path: Path):
    """What ``--destination-tls`` does, against dcmtk's archive."""
    theirs, their_key = make_certificate(tmp_path, "archive", "subjectAltName=IP:127.0.0.1")
    other, other_key = make_certificate(tmp_path, "other", "subjectAltName=DNS:elsewhere")
    ours, our_key = make_certificate(tmp_path, "node")
    path = tmp_path / "sc.dcm"
    path.write_bytes(to_bytes(secondary_capture(np.zeros((4, 4, 3), np.uint8), FINDINGS, HEADER)))
    trusting = Tls(cert=ours, key=our_key, ca=theirs).for_sending()
    with run_storescp(tmp_path / "archive", "+tls", str(their_key), str(theirs), "+cf", str(ours), "-rc") as port:
        DimseDestination("ARCHIVE", "127.0.0.1", port, trusting).send([path])
        (stored,) = (tmp_path / "archive").iterdir()
        assert dcmread(stored).PixelData == dcmread(path).PixelData
        unknown_signer, knows_nobody = Tls(cert=ours, key=our_key, ca=other), Tls(cert=ours, key=our_key)
        for context in (unknown_signer.for_sending(), knows_nobody.for_sending(), None):
            with pytest.raises(NotDeliveredError, match="cannot be reached"):
                DimseDestination("ARCHIVE", "127.0.0.1", port, context).send([path])
        stranger = Tls(cert=other, key=other_key, ca=theirs).for_sending()
        with pytest.raises(NotDeliveredError, match="cannot be reached"):
            DimseDestination("ARCHIVE", "127.0.0.1", port, stranger).send([path])
    wrong_name = Tls(cert=ours, key=our_key, ca=other).for_sending()
    with (
        run_storescp(tmp_path / "elsewhere", "+tls", str(other_key), str(other), "+cf", str(ours), "-rc") as port,
        pytest.raises(NotDeliveredError, match="cannot be reached"),
    ):
        DimseDestination("ARCHIVE", "127.0.0.1", port, wrong_name).send([path])
    assert not list((tmp_path / "elsewhere").iterdir())


@contextmanager
def run_storescp(folder: Path, *options: str) -> Iterator[int]:
    """Yield the port of dcmtk's archive, which writes what it is sent into the folder."""
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(["storescp", *options, "-od", str(folder), str(port)])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, 30)
        yield port
    finally:
        process.kill()
        process.wait()


def test_without_a_certificate_nothing_is_encrypted():
    assert Tls().for_listening() is None


def test_mistakes_end_in_a_sentence(tmp_path: Path):
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        Tls(cert=junk, key=junk).for_listening()
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        Tls().for_sending(junk)

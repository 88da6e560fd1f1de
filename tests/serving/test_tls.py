"""Encrypted associations, by certificates that openssl makes and dcmtk checks."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from node_builders import echoscu, missing, run_node

from cxr_mmdet.errors import UsageError
from cxr_mmdet.serving.tls import Certificates

if TYPE_CHECKING:
    from pathlib import Path

needs_tools = pytest.mark.skipif(
    bool(missing("echoscu")) or shutil.which("openssl") is None, reason="needs the Debian packages dcmtk and openssl"
)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return a self-signed certificate, its own authority, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


@needs_tools
def test_only_peers_with_a_certificate_get_in(tmp_path: Path):
    ours, our_key = make_certificate(tmp_path, "node")
    theirs, their_key = make_certificate(tmp_path, "peer")
    strangers, strangers_key = make_certificate(tmp_path, "stranger")
    tls = Certificates(ours, our_key, theirs).for_listening()
    with run_node(tmp_path / "state", "NOBODY@127.0.0.1:9", tls=tls) as node:
        trust = ("+cf", str(ours))
        assert echoscu(node.port, "+tls", str(their_key), str(theirs), *trust).returncode == 0
        assert echoscu(node.port, "+tls", str(strangers_key), str(strangers), *trust).returncode != 0
        assert echoscu(node.port, "+tla", *trust).returncode != 0
        assert echoscu(node.port).returncode != 0  # in the clear
        assert echoscu(node.port, "+tls", str(their_key), str(theirs), *trust).returncode == 0


def test_without_a_certificate_nothing_is_encrypted():
    assert Certificates().for_listening() is None


def test_mistakes_end_in_a_sentence(tmp_path: Path):
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(UsageError, match="need --tls-cert"):
        Certificates(None, junk, None).for_listening()
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        Certificates(junk, junk, None).for_listening()
    with pytest.raises(UsageError, match="TLS files cannot be used"):
        Certificates(None, None, junk).for_sending()

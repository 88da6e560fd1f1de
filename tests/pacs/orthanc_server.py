"""An Orthanc of our own for a test: a common archive that other people wrote, in a temporary folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
"""None where the Debian package orthanc is missing."""
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Of the Debian package orthanc-dicomweb."""
NO_DICOMWEB = "" if PROGRAM and DICOMWEB.exists() else "needs the Debian packages orthanc and orthanc-dicomweb"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Orthanc:
    """A running archive.

    Attributes:
        dicom_port: where it takes objects; its AE title is ORTHANC.
        http_port: where it tells what it has.
    """

    dicom_port: int
    http_port: int

    def get(self, path: str, content: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", content, timeout=20) as answer:
            return answer.read()

    @property
    def dicomweb(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def put(self, *contents: bytes) -> None:
        for content in contents:
            self.get("/instances", content)

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def instances(self) -> list[dict[str, Any]]:
        """Return what it holds: Orthanc's own id, SOP class and instance, and the radiograph it refers to."""
        return self.json("/instances?expand")

    def count(self) -> int:
        return int(self.json("/statistics")["CountInstances"])

    def file(self, identifier: str) -> bytes:
        return self.get(f"/instances/{identifier}/file")


@contextmanager
def run_orthanc(folder: Path, *, dicom_port: int = 0, http_port: int = 0, **more: Any) -> Iterator[Orthanc]:
    """Yield an Orthanc with these further settings that keeps its files in ``folder`` and is gone afterwards."""
    assert PROGRAM is not None
    server = Orthanc(dicom_port or free_port(), http_port or free_port())
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "DicomAet": "ORTHANC",
        "DicomPort": server.dicom_port,
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomThreadsCount": 4,
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings | more))
    with (folder / "orthanc.log").open("ab") as log:
        process = subprocess.Popen([PROGRAM, str(path)], stdout=log, stderr=log)
        try:
            _wait(server, process, folder / "orthanc.log")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            server.json("/system")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc does not start:\n{log.read_text(errors='replace')[-2000:]}")

"""What ``docs/deploy.md`` has users do: systemd's unit, and the stack as processes and in containers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from importlib.metadata import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from detectors import bundle_of
from node_builders import missing, wait_for, write_phantoms
from orthanc_server import NO_DICOMWEB
from pydicom import dcmread

from cxr_mmdet.pacs.config import Dimse, Listen, NodeConfig, Poll, Report, Stow, Tls, read_config

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DOCUMENT = DEPLOY.parent / "docs" / "deploy.md"
PORTS = {"archive": 4242, "viewer": 8080, "page": 7860, "node": 9100}


def _succeeds(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


COMPOSE = _succeeds("docker", "compose", "version")
DAEMON = COMPOSE and _succeeds("docker", "info")


def test_what_is_installed_runs_what_is_exported():
    """The node needs the pacs extra, the page the serve extra, and both the backend of the bundle's format."""
    document = DOCUMENT.read_text(encoding="utf-8")
    installed = [set(extras.split(",")) for extras in re.findall(r"cxr-mmdet\[([\w,]+)\]", document)]
    (form,) = re.findall(r"--format (\w+)", document)
    assert installed == [{form, "pacs", "serve"}, {form, "pacs"}]
    assert f'"/src[{form},pacs,serve]"' in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert {form, "pacs", "serve"} <= set(metadata("cxr-mmdet").get_all("Provides-Extra"))


def test_every_key_of_the_configuration_file_is_documented():
    (example,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    for table in (NodeConfig, Listen, Tls, Report, Dimse, Stow, Poll):
        missing = [key for key in table.model_fields if not re.search(rf"\b{key}\b", example)]
        assert not missing, f"{table.__name__}: {missing}"


def test_every_container_is_confined_and_has_a_health_check():
    stack = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", dockerfile, re.MULTILINE | re.DOTALL))
    assert set(stack["services"]) == {"orthanc", "node", "page", "viewer"}
    for service in stack["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["healthcheck"]["test"]
        assert "USER " in stages[service["build"]["target"]]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.rsplit(":", 1 + volume.endswith(":ro"))[0]
            assert source.startswith("${CXR_MODEL") or source in stack["volumes"] or (DEPLOY / source).is_file()


@pytest.mark.skipif(not COMPOSE, reason="needs docker with its compose plugin")
def test_compose_understands_its_file(tmp_path: Path):
    command = ["docker", "compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, "CXR_MODEL": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.read().decode()


def _root(config: str) -> str:
    """Return where OHIF looks for studies, as JavaScript understands its configuration."""
    if shutil.which("node") is None:
        return "/dicom-web"
    code = f"globalThis.window = {{}};\n{config}\nconsole.log(window.config.dataSources[0].configuration.qidoRoot)"
    return subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout.strip()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def _processes(folder: Path) -> Iterator[dict[str, int]]:
    """Yield the ports of the stack, run as processes."""
    viewer = folder / "ohif"
    viewer.mkdir()
    (viewer / "index.html").write_text("<title>OHIF</title>")
    offset = next(
        offset for offset in range(10_000, 50_000, 500) if all(map(_is_free, (p + offset for p in PORTS.values())))
    )
    environment = os.environ | {
        "CXR_PORT_OFFSET": str(offset),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(DEPLOY.parent),
    }
    command = [DEPLOY / "local.sh", bundle_of("retina", "onnx"), viewer, folder / "stack"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("archive: ORTHANC@"), line
        yield {name: port + offset for name, port in PORTS.items()}
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _containers(folder: Path) -> Iterator[dict[str, int]]:
    """Yield the ports of the stack, built and run by compose."""
    compose = ["docker", "compose", "-f", DEPLOY / "compose.yaml", "-p", "cxr-test"]
    environment = os.environ | {"CXR_MODEL": str(bundle_of("retina", "onnx"))}
    try:
        subprocess.run([*compose, "up", "--build", "--wait"], env=environment, check=True)
        yield PORTS
    finally:
        subprocess.run([*compose, "down", "--volumes"], env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("run", [_processes, _containers], ids=["processes", "containers"])
def test_a_radiograph_sent_to_the_stack_comes_back_with_its_results(run: Any, tmp_path: Path):
    """It is slow: the node and the page each load the model."""
    if run is _processes and (reason := NO_DICOMWEB or missing("storescu", "nginx", "curl")):
        pytest.skip(reason)
    if run is _containers and not DAEMON:
        pytest.skip("needs docker with its compose plugin and a daemon that answers")
    (path,) = write_phantoms(tmp_path / "sent", 1)
    radiograph = dcmread(path)
    with run(tmp_path) as ports:
        sent = ["storescu", "-aec", "ORTHANC", "127.0.0.1", str(ports["archive"]), path]
        assert subprocess.run(sent, check=False).returncode == 0
        viewer = f"http://127.0.0.1:{ports['viewer']}"
        root = _root(_get(viewer + "/app-config.js"))
        series = f"{viewer}{root}/studies/{radiograph.StudyInstanceUID}/series"

        def modalities() -> set[str]:
            return {row["00080060"]["Value"][0] for row in json.loads(_get(series))}

        wait_for(lambda: modalities() == {radiograph.Modality, "OT", "SR"})
        assert "OHIF" in _get(f"{viewer}/viewer?StudyInstanceUIDs={radiograph.StudyInstanceUID}")
        assert "gradio" in _get(f"http://127.0.0.1:{ports['page']}/")
        assert "cxr_node_predictions_total 1.0" in _get(f"http://127.0.0.1:{ports['node']}/metrics")


def test_the_documents_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESEARCH_LOGIN", "name:password")
    (text,) = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "node.toml").write_text(text, encoding="utf-8")
    config = read_config(tmp_path / "node.toml")
    assert [destination.name for destination in config.destinations()] == ["pacs", "research"]
    assert len(config.pollers()) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs the Debian package systemd")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path):
    (unit,) = re.findall(r"```ini\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    program = "/opt/cxr/bin/cxr"
    assert program in unit
    path = tmp_path / "cxr-node.service"
    path.write_text(unit.replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    # It also ends with 0 after remarks such as "Unknown key … ignoring".
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

"""The node's configuration file: what it says reaches the node, and mistakes are named with file, key and remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cxr_mmdet.errors import ConfigError, UsageError
from cxr_mmdet.pacs.config import destination_table, read_config
from cxr_mmdet.pacs.sender import DimseDestination, StowDestination

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = """
model = "model"
state = "/var/lib/cxr"
streams = 1
http = "127.0.0.1:9100"
log_format = "json"
audit = "audit.jsonl"

[listen]
ae_title = "NODE"
host = "0.0.0.0"
port = 104
allow_ae = ["MODALITY1"]
allow_host = ["10.1.2.0/24"]

[report]
score_threshold = 0.4
class_thresholds = { "Nodule/Mass" = 0.2 }
capture_quality = 0
presentation = true

[[destination]]
name = "pacs"
kind = "dimse"
ae_title = "ARCHIVE"
host = "10.1.2.9"
port = 4242

[[destination]]
kind = "stow"
url = "https://archive.example/dicom-web"
credentials = "secret"

[[poll]]
url = "https://archive.example/dicom-web"
interval_s = 5
"""
MINIMAL = 'model = "m"\n[[destination]]\nkind = "dimse"\nae_title = "A"\nhost = "h"\nport = 104\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("reader:password")
    path = tmp_path / "node.toml"
    path.write_text(WHOLE)
    return path


def test_what_the_file_says_reaches_the_node(file: Path):
    config = read_config(file)
    pacs, cloud = config.destinations()
    assert pacs == DimseDestination("ARCHIVE", "10.1.2.9", 4242, None, "NODE", "pacs")
    assert isinstance(cloud, StowDestination)
    assert (pacs.name, cloud.name) == ("pacs", "https://archive.example/dicom-web")
    (poller,) = config.pollers()
    assert (poller.archive.url, poller.interval_s) == ("https://archive.example/dicom-web", 5)
    options = config.node_options()
    assert (options.ae_title, options.host, options.port) == ("NODE", "0.0.0.0", 104)
    assert (options.calling_ae_titles, list(map(str, options.networks))) == (("MODALITY1",), ["10.1.2.0/24"])
    report = config.report_options()
    assert (report.score_threshold, report.class_thresholds) == (0.4, {"Nodule/Mass": 0.2})
    assert (report.capture, report.jpeg_quality, report.presentation) == (True, None, True)
    assert config.model == str(file.parent / "model"), "relative paths begin at the file's folder"
    assert config.audit == file.parent / "audit.jsonl"
    assert str(config.state) == "/var/lib/cxr"


def test_options_take_precedence_over_the_file(file: Path):
    table = destination_table("OTHER@10.0.0.1:11112", tls=False, credentials=None, ca=None)
    config = read_config(
        file,
        {
            "listen.port": ("--port", 0),
            "destination": ("--destination", [table]),
            "report.class_thresholds": ("--class-threshold", {"ILD": 0.1}),
        },
    )
    assert (config.listen.port, config.listen.ae_title) == (0, "NODE")
    assert [destination.name for destination in config.destinations()] == ["OTHER@10.0.0.1:11112"]
    assert config.report_options().class_thresholds == {"ILD": 0.1}


def test_options_alone_are_a_configuration():
    table = destination_table("https://archive.example/dicom-web", tls=False, credentials=None, ca=None)
    config = read_config(None, {"model": ("MODEL", "/m"), "destination": ("--destination", [table])})
    assert (config.model, config.listen.port, config.http) == ("/m", 11112, None)
    (destination,) = config.destinations()
    assert isinstance(destination, StowDestination)


def test_class_thresholds_may_lie_in_a_file_of_their_own(tmp_path: Path):
    (tmp_path / "thresholds.toml").write_text('"Nodule/Mass" = 0.2\nILD = 1\n')
    file = tmp_path / "node.toml"
    file.write_text(f'{MINIMAL}[report]\nclass_thresholds = "thresholds.toml"\n')
    assert read_config(file).report.class_thresholds == {"Nodule/Mass": 0.2, "ILD": 1}
    (tmp_path / "thresholds.toml").write_text('"Nodule/Mass" = "much"\n')
    with pytest.raises(UsageError, match=r"thresholds\.toml, 'Nodule/Mass': got 'much': expected CLASS=SCORE"):
        read_config(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stat = 1\n" + MINIMAL, r"node\.toml: stat: nothing reads this key; did you mean state\?"),
        (f"{MINIMAL}[listen]\nprot = 1", r"listen\.prot: nothing reads this key; did you mean port\?"),
        (f"{MINIMAL}nmae = 'x'", r"destination #1\.nmae: nothing reads this key; did you mean name\?"),
        (
            f"{MINIMAL}[[poll]]\nurl = 'https://a'\nday = 1",
            r"poll #1\.day: nothing reads this key; did you mean days\?",
        ),
        (f"{MINIMAL}[zzz]\n", r"zzz: nothing reads this key; expected one of audit, destination, device"),
        (f"{MINIMAL}[listen]\nport = 70000", r"listen\.port: got 70000, expected at most 65535\."),
        (f"{MINIMAL}[listen]\nport = '104'", r"listen\.port: got '104', expected a valid integer\."),
        (f"{MINIMAL}[listen]\nport = true", r"listen\.port: got True, expected a valid integer\."),
        (f"{MINIMAL}[report]\nscore_threshold = nan", r"score_threshold: got nan, expected"),
        (f"{MINIMAL}[report]\nclass_thresholds = {{ILD = 2}}", r"class_thresholds\.ILD: got 2, expected at most 1"),
        (f"{MINIMAL}[listen]\nae_title = 'x\\\\y'", r"listen\.ae_title: got .*, expected an AE title of 1 to 16"),
        (f"{MINIMAL}[tls]\nkey = 'k'", r"tls: got \{'key': 'k'\}, expected cert, the node's own certificate"),
        (MINIMAL.replace("port = 104", ""), r"destination #1\.port is missing"),
        (MINIMAL.replace("dimse", "dicom"), r"destination #1: got .*, expected the key kind to be dimse or stow"),
        (MINIMAL + MINIMAL.partition("\n")[2], r"destination: got .*, expected destinations of different names"),
        ("model = 'm'", r"destination is missing; give --destination AE@HOST:PORT, or a table \[\[destination\]\]"),
        ("model = 'm'\ndestination = []", r"destination: got \[\], expected at least one destination"),
        (MINIMAL.replace('model = "m"', ""), r"node\.toml: model is missing; name a checkpoint"),
        ("listen = 3\n" + MINIMAL, r"listen: got 3, expected a table"),
        ("model = 'm'\ndestination = 'A@h:1'", r"destination: got 'A@h:1', expected tables \[\[destination\]\]"),
        (f"{MINIMAL}[listen]\nallow_ae = 'A'", r"listen\.allow_ae: got 'A', expected a list"),
        ("= 3", r"node\.toml: is not TOML: .*line 1"),
    ],
)
def test_mistakes_are_named_with_file_key_and_what_is_expected(tmp_path: Path, text: str, message: str):
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))


def test_all_mistakes_are_named_at_once_and_those_of_options_by_the_option(tmp_path: Path):
    file = tmp_path / "node.toml"
    file.write_text(f"stat = 1\n{MINIMAL}")
    with pytest.raises(ConfigError) as caught:
        read_config(file, {"listen.ae_title": ("--ae", "x" * 17), "listen.allow_ae": ("--allow-ae", ["A", ""])})
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("--ae: got 'xxxxxxxxxxxxxxxxx', expected an AE title")
    assert lines[1].startswith("--allow-ae: got ''")
    assert "stat: nothing reads this key" in lines[2]

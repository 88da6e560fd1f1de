"""Files that are either whole or not there."""

import errno
import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_mmdet import files
from cxr_mmdet.errors import UsageError
from cxr_mmdet.files import (
    atomic_path,
    locked_folder,
    plain_cell,
    sole_use,
    spreadsheet_cell,
    write_durably,
    write_json,
)


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new/folder/image.png"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        temporary.write_bytes(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "data.json"
    target.write_text("old")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_json(tmp_path / "ours.json", {})
    assert stat.S_IMODE(os.stat(tmp_path / "ours.json").st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode)


def test_threads_that_write_leave_the_umask_alone(tmp_path, monkeypatch):
    def refuse(mask):
        raise AssertionError("another thread may read the umask that this one set for a moment, and set it for good")

    monkeypatch.setattr("cxr_mmdet.files.os.umask", refuse)
    write_json(tmp_path / "ours.json", {})


def test_long_names_are_fine(tmp_path):
    name = "x" * 250 + ".json"
    write_json(tmp_path / name, [])
    assert (tmp_path / name).exists()


def test_same_content_same_bytes(tmp_path):
    write_json(tmp_path / "one.json", {"b": 1, "a": ["ä", None]})
    write_json(tmp_path / "two.json", {"a": ["ä", None], "b": 1})
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert (tmp_path / "one.json").read_text(encoding="utf-8") == '{"a": ["ä", null], "b": 1}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_word_for_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "bad.json", {"a": value})
    assert not list(tmp_path.iterdir())


def test_a_durable_file_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "image.dcm"
    write_durably(target, b"first")
    assert target.read_bytes() == b"first"

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cxr_mmdet.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_durably(target, b"second")
    assert target.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["image.dcm"]


def test_a_durable_file_and_its_name_are_both_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        "cxr_mmdet.files.os.fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    write_durably(tmp_path / "image.dcm", b"")
    assert [os.path.basename(path) for path in synced] == [".image.dcm.part", tmp_path.name]


HOLDER = """
import sys, time
from pathlib import Path
from cxr_mmdet.files import locked_folder
with locked_folder("cxr-test-") as folder:
    (folder / "patient.dcm").write_bytes(b"name")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_a_killed_process_folder_goes_at_the_next_start_and_a_living_ones_stays(tmp_path, monkeypatch):
    def start():
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=environment)
        return process, Path(process.stdout.readline().strip())

    killed, left = start()
    living, held = start()
    try:
        assert left.stat().st_mode & 0o777 == 0o700
        killed.kill()
        killed.wait()
        elsewhere = tmp_path / "kept"
        elsewhere.mkdir()
        (tmp_path / "cxr-test-link").symlink_to(elsewhere)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert (left / "patient.dcm").exists()
        with locked_folder("cxr-test-") as own:
            assert not left.exists()
            assert (held / "patient.dcm").exists()
            assert elsewhere.exists()
        assert not own.exists()
        assert (held / "patient.dcm").exists()
    finally:
        living.kill()
        living.wait()
        killed.stdout.close()
        living.stdout.close()


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_a_file_system_that_locks_no_folders_is_used_without_locks(tmp_path, monkeypatch):
    def refuse(handle, how):
        raise OSError(errno.EBADF, "Bad file descriptor")  # as NFS answers for a folder

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / "cxr-test-of-another").mkdir()
    with locked_folder("cxr-test-", tmp_path) as own, sole_use(tmp_path / "run", "go elsewhere"):
        assert own.is_dir()
        assert (tmp_path / "cxr-test-of-another").is_dir()
    assert not own.exists()


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_a_folder_behind_a_link_is_used_by_one_at_a_time(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with (
        sole_use(tmp_path / "link", "go elsewhere"),
        pytest.raises(UsageError, match="in use by another process; wait for it, or go elsewhere"),
        sole_use(tmp_path / "disk", "go elsewhere"),
    ):
        pass
    with sole_use(tmp_path / "disk", "go elsewhere"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX only")
def test_who_waits_for_a_folder_gets_it_when_the_other_is_done(tmp_path):
    done = []

    def wait():
        with sole_use(tmp_path, "go elsewhere", wait=True):
            done.append("second")

    with ThreadPoolExecutor(1) as threads:
        with sole_use(tmp_path, "go elsewhere"):
            waiting = threads.submit(wait)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            done.append("first")
        waiting.result(timeout=60)
    assert done == ["first", "second"]


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "\n=1"]
)
def test_no_cell_is_computed_and_all_come_back(text):
    cell = spreadsheet_cell(text)
    assert cell.startswith("'")
    assert plain_cell(cell) == text


@pytest.mark.parametrize("value", ["a=1", "", "Jörg", "'quoted'", "1.2.840", "-3.5", "+1e-3", -3.5, 7, None, "a\t="])
def test_numbers_and_plain_text_stay(value):
    assert spreadsheet_cell(value) == value
    assert not isinstance(value, str) or plain_cell(value) == value


def test_every_csv_of_the_package_is_written_so():
    package = Path(files.__file__).parent
    own = {"files.py", "annotations/table.py"}
    writing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "csv.writer(" in (text := path.read_text(encoding="utf-8"))
        or "csv.DictWriter(" in text
        or ".to_csv(" in text
    }
    assert writing <= own

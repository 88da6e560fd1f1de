"""``prepare_data images`` and ``doctor`` as a user meets them, Ctrl-C included."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_radiograph
from typer.testing import CliRunner

from cxr_mmdet.cli.prepare_data import app

TOOL = Path(__file__).parents[2] / "tools/prepare_data.py"


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "100"})


@pytest.fixture
def src(tmp_path):
    for number in range(5):
        write_radiograph(tmp_path / f"src/i{number}.dcm", PatientID=f"P{number % 2}")
    return tmp_path / "src"


class TestImages:
    def test_a_second_run_has_nothing_to_do(self, src, tmp_path):
        result = run("images", src, tmp_path / "out", "--short-edge", "20", "--jobs", "2")
        assert result.exit_code == 0, result.stderr
        assert f"5 images in {tmp_path / 'out/images'}\n" in result.stderr
        again = run("images", src, tmp_path / "out", "--short-edge", "20")
        assert again.exit_code == 0
        assert "5 images" in again.stderr
        assert "5 of them reused" in again.stderr

    def test_failures_make_the_exit_code_unless_allowed(self, src, tmp_path):
        (src / "i3.dcm").write_bytes(b"broken")
        result = run("images", src, tmp_path / "out")
        assert result.exit_code == 1
        assert f"failed: {src / 'i3.dcm'}: not a DICOM file" in result.stderr
        assert f"1 failed; all in {tmp_path / 'out/failures.csv'}" in result.stderr
        assert run("images", src, tmp_path / "out", "--max-failures", "1").exit_code == 0

    def test_burnt_in_text_is_reported(self, src, tmp_path):
        write_radiograph(src / "i0.dcm", BurnedInAnnotation="YES")
        assert "note: 1 radiograph with text burnt" in run("images", src, tmp_path / "out").stderr

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            (("nowhere", "out"), 2, "does not exist"),
            (("SRC", "SRC/i0.dcm"), 2, "is a file"),
            (("EMPTY", "out"), 1, "holds no radiograph"),
            (("SRC", "out", "--dask", "nonsense"), 2, "--dask nonsense: no scheduler answers"),
            (("SRC", "out", "--jobs", "0"), 2, "--jobs"),
        ],
    )
    def test_bad_input_is_one_sentence(self, src, tmp_path, args, code, message):
        pytest.importorskip("distributed")
        (tmp_path / "empty").mkdir()
        places = {"SRC": str(src), "EMPTY": str(tmp_path / "empty"), "out": str(tmp_path / "out")}
        result = run("images", *(places.get(arg, arg.replace("SRC", str(src))) for arg in args))
        assert result.exit_code == code
        assert message in " ".join(result.stderr.replace("│", " ").split())
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_ctrl_c_leaves_what_a_second_run_completes(self, tmp_path, jobs):
        noise = np.random.default_rng(0).integers(0, 60000, (1200, 1200), dtype=np.uint16)
        first = write_radiograph(tmp_path / "src/i00.dcm", noise)
        for number in range(1, 40):
            os.link(first, tmp_path / f"src/i{number:02}.dcm")
        command = [sys.executable, TOOL, "images", tmp_path / "src", tmp_path / "out", "--jobs", str(jobs)]
        images = tmp_path / "out/images"
        # A session of its own, so that the signal reaches the workers as well, as a terminal's does. Tests that run in
        # the background of a shell ignore the signal, and would hand that down.
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while len(list(images.glob("[!.]*.png"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert errors == "interrupted: what was finished is kept.\n"
        whole = {path.name for path in images.glob("[!.]*.png")}
        assert 4 <= len(whole) < 40
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        reused = int(done.stderr.partition("images, ")[2].split()[0])
        assert len(whole) // 2 <= reused <= len(whole)  # what was under way may be written but not noted
        assert len(list(images.glob("[!.]*.png"))) == 40
        # A worker that is killed while it writes leaves its temporary file; a run removes those of earlier ones by age.
        assert len(list(images.glob(".*"))) <= jobs


class TestDoctor:
    def test_table_and_lines(self, src):
        result = run("doctor", src)
        assert result.exit_code == 0, result.output
        words = result.stdout.split()
        for word in ("syntax", "photometric", "MONOCHROME2", "modality", "CR", "view", "PA"):
            assert word in words
        assert "2 patients, 2 with several images (at most 3)" in result.stdout
        assert "4 images identical to another" in result.stdout
        assert max(map(len, result.stdout.splitlines()[:30])) <= 100

    def test_json_and_the_exit_code_of_a_folder_that_is_not_ready(self, src):
        (src / "i9.dcm").write_bytes(b"x")
        result = run("doctor", src, "--json", "--jobs", "2")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert report["unreadable"] == {"i9.dcm": "not a DICOM file nor a PNG, JPEG or TIFF image"}
        assert (report["readable"], report["is_ready"]) == (5, False)
        assert report["counts"]["view"] == {"PA": 5}

    def test_bad_input_is_one_sentence(self, tmp_path):
        assert run("doctor", tmp_path / "nowhere").exit_code == 2
        result = run("doctor", tmp_path)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["images", "doctor"])
def test_help_needs_nothing_heavy(command):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from cxr_mmdet.cli.prepare_data import app\n"
        f"assert CliRunner().invoke(app, ['{command}', '--help']).exit_code == 0\n"
        "heavy = {'numpy', 'pandas', 'cv2', 'torch', 'pydicom', 'mmdet', 'joblib', 'distributed'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

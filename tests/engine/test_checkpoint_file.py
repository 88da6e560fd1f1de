"""Checkpoints from strangers: nothing in them runs in any command, and what is no checkpoint is called what it is."""

from __future__ import annotations

import http.server
import io
import tarfile
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from detectors import Bomb, checkpoint_of, write_checkpoint, write_image
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from training_runs import TINY_ANY
from typer.testing import CliRunner

from cxr_mmdet.cli import export, predict, test, train
from cxr_mmdet.engine import checkpoint_file
from cxr_mmdet.engine.checkpoint_file import read_checkpoint_file, trusting
from cxr_mmdet.errors import CheckpointError


def refused(app, arguments: list[str], code: int = 1) -> str:
    """Return the one sentence in which a command refuses."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.exception, result.stderr)
    assert "Traceback" not in result.stderr
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return message


class TestCommands:
    @pytest.fixture
    def mark(self, tmp_path):
        return tmp_path / "went-off"

    @pytest.fixture
    def bomb(self, run, mark):
        """Return a checkpoint of a RetinaNet that makes a folder when it is unpickled."""
        return write_checkpoint("retina", run / "iter_2.pth", extra={"x": Bomb(mark)})

    @pytest.fixture
    def run(self, tmp_path):
        (tmp_path / "run").mkdir()
        return tmp_path / "run"

    @pytest.fixture
    def root(self, prepared_folder):
        return prepared_folder()

    def command(self, name, tmp_path, bomb, root):
        data = ["--data-root", str(root)]
        out = ["--out", str(tmp_path / "out")]
        (bomb.parent / "last_checkpoint").write_text(str(bomb))
        if name == "test":
            return test.app, ["retina_phantom", str(bomb), *data, "--work-dir", str(tmp_path / "scored")]
        if name == "train --load-from":
            return train.app, ["retina_phantom", *data, "--load-from", str(bomb), "--work-dir", str(tmp_path / "new")]
        if name == "train --resume":
            return train.app, ["retina_phantom", *data, "--resume", "--work-dir", str(bomb.parent)]
        if name == "export":
            return export.app, [str(bomb), *out]
        image = str(write_image(tmp_path / "a.png"))
        if name == "predict":
            return predict.app, [str(bomb), image, *out]
        return predict.app, [image, *out, "--ensemble", str(checkpoint_of("retina")), str(bomb)]

    @pytest.mark.parametrize(
        "name", ["test", "train --load-from", "train --resume", "export", "predict", "predict --ensemble"]
    )
    def test_code_in_a_checkpoint_does_not_run(self, tmp_path, bomb, mark, root, name):
        app, arguments = self.command(name, tmp_path, bomb, root)
        arguments += ["--cfg-options", *TINY_ANY] if app in (train.app, test.app) else []
        message = refused(app, arguments)
        assert "would run code (" in message
        assert "mkdir" in message
        assert "--trust-checkpoint" in message
        assert not mark.exists()

    def test_a_user_may_insist_when_testing(self, tmp_path, bomb, mark, root):
        app, arguments = self.command("test", tmp_path, bomb, root)
        result = CliRunner().invoke(app, [*arguments, "--trust-checkpoint", "--cfg-options", *TINY_ANY])
        assert result.exit_code == 0, (result.exception, result.stderr)
        assert mark.exists()

    @pytest.mark.parametrize(
        ("part", "value"), [("meta", {"epoch": 0}), ("optimizer", {}), ("message_hub", []), ("meta", {"iter": "two"})]
    )
    def test_weights_without_the_state_of_a_training_are_not_resumed(self, tmp_path, run, root, part, value):
        path = run / "iter_2.pth"
        torch.save(torch.load(checkpoint_of("retina"), weights_only=False) | {part: value}, path)
        app, arguments = self.command("train --resume", tmp_path, path, root)
        message = refused(app, [*arguments, "--cfg-options", *TINY_ANY])
        assert f"{path}: holds no training state to resume from (" in message
        assert f"--load-from {path}, without --resume" in message

    @pytest.mark.parametrize(
        ("name", "number"),
        [
            ("test", np.nan),
            ("train --load-from", np.nan),
            ("train --resume", -np.inf),
            ("export", np.inf),
            ("predict", np.nan),
        ],
    )
    def test_weights_that_are_not_finite(self, tmp_path, run, root, name, number):
        weights = dict(torch.load(checkpoint_of("retina"), weights_only=False)["state_dict"])
        last = next(key for key in reversed(weights) if weights[key].is_floating_point())
        weights[last] = weights[last].clone()
        weights[last].view(-1)[-1] = number
        path = write_checkpoint("retina", run / "iter_2.pth", state_dict=weights)
        app, arguments = self.command(name, tmp_path, path, root)
        arguments += ["--cfg-options", *TINY_ANY] if app in (train.app, test.app) else []
        message = refused(app, arguments)
        assert f"iter_2.pth: holds weights that are not finite numbers (NaN or infinity), in {last};" in message
        assert not (tmp_path / "out").exists()


class TestMmenginesLoading:
    def test_every_scheme_is_ours(self):
        """A scheme that a later mmengine adds must be taken over as well."""
        assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {checkpoint_file.__name__}

    def test_weights_of_a_backbone(self, tmp_path):
        torch.save({"x": Bomb(tmp_path / "went-off")}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="would run code"):
            load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / "a.pth"))
        assert not (tmp_path / "went-off").exists()
        with trusting(True):
            CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
        assert (tmp_path / "went-off").exists()

    def test_a_download(self, tmp_path, monkeypatch):
        """Weights are kept, code does not run, and a web page is not kept for the next attempt."""
        served = tmp_path / "served"
        served.mkdir()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        torch.save({"w": torch.ones(2)}, served / "good.pth")
        torch.save({"x": Bomb(tmp_path / "went-off")}, served / "bomb.pth")
        (served / "page.pth").write_text("<!DOCTYPE html><title>Log in</title>")
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
        monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            assert CheckpointLoader.load_checkpoint(f"{address}/good.pth")["w"].sum() == 2
            with pytest.raises(CheckpointError, match="would run code"):
                CheckpointLoader.load_checkpoint(f"{address}/bomb.pth")
            with pytest.raises(CheckpointError, match=r"page\.pth: what was downloaded is a web page"):
                CheckpointLoader.load_checkpoint(f"{address}/page.pth")
            with pytest.raises(CheckpointError, match=r"gone\.pth: cannot be downloaded .*404.*--load-from none"):
                CheckpointLoader.load_checkpoint(f"{address}/gone.pth")
            server.shutdown()
        names = [path.name for path in (tmp_path / "cache/hub/checkpoints").iterdir()]
        assert sorted(names) == ["bomb.pth", "good.pth"]
        assert not (tmp_path / "went-off").exists()

    @pytest.mark.parametrize(
        ("name", "message"),
        [("torchvision://resnet51", "has no such model"), ("s3://a/b.pth", "download it and give the file")],
    )
    def test_other_places(self, name, message):
        with pytest.raises(CheckpointError, match=message):
            CheckpointLoader.load_checkpoint(name)

    def test_a_config_in_the_meta_is_not_handed_to_mmengine_which_runs_it_on_resuming(self, tmp_path):
        path = write_checkpoint("retina", tmp_path / "a.pth", meta={"config": "import os", "cfg": "model = dict()"})
        assert read_checkpoint_file(path)["meta"] == {"cfg": "model = dict()"}


class TestWhatTrainingWrites:
    def test_is_read_as_it_was(self, tmp_path):
        history = HistoryBuffer([0.5, 0.25], [1, 1])
        history.update(0.125)
        content = {
            "history": [history, history],
            "unused": HistoryBuffer(),
            "numbers": (np.float64(2.5), np.int64(-3), np.float32(0.5), np.bool_(True)),
            "arrays": {
                "rows": np.arange(6.0).reshape(2, 3),
                "columns": np.arange(6).reshape(2, 3).T,
                "no": np.empty(0),
            },
            "size": (torch.Size([1, 2]), torch.float16),
            "state_dict": {"w": torch.ones(2)},
        }
        torch.save(content, tmp_path / "a.pth")
        got = read_checkpoint_file(tmp_path / "a.pth")
        first, second = got["history"]
        assert first is second
        assert first.mean() == history.mean()
        assert first.statistics("current") == 0.125
        first.update(1.0)
        assert len(got["unused"].data[0]) == 0
        assert got["numbers"] == content["numbers"]
        assert [type(number) for number in got["numbers"]] == [type(number) for number in content["numbers"]]
        for name, array in content["arrays"].items():
            np.testing.assert_array_equal(got["arrays"][name], array)
        assert got["size"] == content["size"]
        assert type(got["size"][0]) is torch.Size

    def test_an_array_of_objects_is_no_array_of_numbers(self, tmp_path):
        torch.save({"a": np.array([None, "x"], dtype=object)}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="array of object, not of numbers"):
            read_checkpoint_file(tmp_path / "a.pth")


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pth"), io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; copy or download it again"),
        (b"hello\n", "is a text file that begins with 'hello'"),
        ("Röntgen".encode(), "is a text file that begins with 'Röntgen'"),
        (b"\n <!DOCTYPE html>\n<html>", "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "is a Git LFS pointer .* run git lfs pull",
        ),
        (zipped(a=b"b"), "is a ZIP archive of other files; unpack it"),
        (zipped(a=b"b")[:-9], "is cut short or damaged"),
        (zipped(**{"m/data.pkl": b"", "m/constants.pkl": b""}), "is a TorchScript program"),
        (zipped(**{"m/data.pkl": b""}), "is not a readable checkpoint"),
        (tarred(), "is a tar archive; unpack it"),
        (b"\x1f\x8b\x08\x00", "is a compressed archive"),
        (b"\x89HDF\r\n", "is an HDF5 file"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}', "is a safetensors file"),
        (b"\x08\x08\x12\x07pytorch", "is not a PyTorch file .it begins with the bytes 08 08"),
        (b"\x80\x02}q\x00.", "is not a readable checkpoint|is damaged"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,  # archives hold the time, which differs among workers
)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"a\.pth: ({message})") as caught:
        read_checkpoint_file(tmp_path / "a.pth")
    assert "code, so" not in str(caught.value)
    assert "trust" not in str(caught.value)
    assert "\n" not in str(caught.value)

"""``browse``: the images of a training, drawn."""

import cv2
from typer.testing import CliRunner

from cxr_mmdet.cli import browse
from cxr_mmdet.engine.config import load_config
from cxr_mmdet.engine.inspection import training_images
from cxr_mmdet.files import sole_use


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(browse.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_images_and_a_grid_are_written(prepared_folder, tmp_path):
    root, out = prepared_folder(), tmp_path / "seen"
    shown = run("retina_5cls", "--data-root", root, "--out", out, "--count", 5).stdout
    files = sorted(path.name for path in out.iterdir())
    assert len(files) == 6
    assert files[-1] == "grid.png"
    assert "5 images, " in shown
    first = cv2.imread(str(out / files[0]))
    assert min(first.shape[:2]) >= 640  # after the pipeline, not the prepared image
    assert (first[..., 0] != first[..., 2]).any()  # a box in colour
    assert cv2.imread(str(out / "grid.png")).shape == (2 * 320 + 8, 3 * 320 + 16, 3)
    assert "not empty; pass --force" in run("retina_5cls", "--data-root", root, "--out", out, code=2).stderr


def test_the_images_are_those_of_the_training(prepared_folder):
    config = load_config("retina_small", data_root=prepared_folder())
    one, again = (list(training_images(config, 3)) for _ in range(2))
    assert [image.image for image in one] == [image.image for image in again]
    assert all((a.pixels == b.pixels).all() for a, b in zip(one, again, strict=True))
    assert sum(image.boxes for image in one) > 0


def test_without_a_prepared_folder_it_is_one_sentence(tmp_path):
    message = run("retina_small", "--data-root", tmp_path / "none", "--out", tmp_path / "x", code=1).stderr
    assert "none: no such prepared folder" in message
    assert not (tmp_path / "x").exists()


def test_images_before_one_that_cannot_be_read_are_in_the_grid(prepared_folder, tmp_path):
    root, out = prepared_folder(), tmp_path / "seen"
    names = [image.image for image in training_images(load_config("retina_small", data_root=root), 3)]
    (root / "images" / f"{names[2]}.png").write_bytes(b"no image")
    assert names[2] in run("retina_small", "--data-root", root, "--out", out, "--count", 5, code=1).stderr
    assert sorted(path.name for path in out.iterdir()) == [f"000_{names[0]}.png", f"001_{names[1]}.png", "grid.png"]


def test_two_at_once_into_one_folder_are_refused(prepared_folder, tmp_path):
    """The images of both lay in one folder, and the grid showed those of one."""
    arguments = ("retina_small", "--data-root", prepared_folder(), "--out", tmp_path / "seen", "--count", 2)
    with sole_use(tmp_path / "seen", "go elsewhere"):
        for force in ((), ("--force",)):
            assert "in use by another process" in run(*arguments, *force, code=2).stderr
    assert not any((tmp_path / "seen").iterdir())
    run(*arguments)

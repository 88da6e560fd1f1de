"""Label Studio's JSON: per cent become pixels, readers and tasks that nobody finished are kept."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from source_trees import HEIGHT, WIDTH, read_tree, rows_by_image

from cxr_mmdet.errors import DatasetError, TableError

if TYPE_CHECKING:
    from pathlib import Path


def region(label: str | None, kind: str = "rectanglelabels", size: bool = True, **value: Any) -> dict:
    named = {kind: [label]} if label else {}
    item = {"type": kind, "value": {**value, **named}, "id": "r1"}
    return item | ({"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0} if size else {})


def rectangle(label: str | None = "Mass", x=10, y=20, width=30, height=40, **more: Any) -> dict:
    return region(label, x=x, y=y, width=width, height=height, rotation=0, **more)


def task(number: int, image: str, *annotations: dict, **more: Any) -> dict:
    return {"id": number, "data": {"image": image}, "annotations": list(annotations), "predictions": []} | more


def annotation(*result: dict, by: Any = None, **more: Any) -> dict:
    return {"completed_by": by, "was_cancelled": False, "result": list(result)} | more


def read(tmp_path: Path, *tasks: dict, files: dict | None = None):
    return read_tree(tmp_path, {"export.json": json.dumps(tasks)} | (files or {}))


BOX = (0.10 * WIDTH, 0.20 * HEIGHT, 0.40 * WIDTH, 0.60 * HEIGHT)
UPLOAD = "/data/upload/1/0a1b2c3d-a.png"


def test_readers_and_the_states_of_a_task(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        task(
            7,
            UPLOAD,
            annotation(rectangle(), by={"id": 4, "email": "ann@x.org"}),
            annotation(by=5),
            annotation(rectangle(), by=6, was_cancelled=True),
            predictions=[{"result": [rectangle("ILD")]}],
        ),
        task(8, "/data/upload/1/11112222-b.png", annotation(by=5)),
        task(9, "/data/upload/1/33334444-c.png", annotation(rectangle(), by=5, was_cancelled=True)),
        task(10, "/data/upload/1/55556666-d.png"),
        files={"upload/1/0a1b2c3d-a.png": None, "b.png": None},
    )
    assert source.format == "labelstudio"
    assert rows_by_image(source) == {
        "a": [("Mass", "ann@x.org", BOX), ("No finding", "5", None)],
        "b": [("No finding", "5", None)],
    }
    assert source.unread == ("c", "d")
    assert source.images == {"a": tmp_path / "upload/1/0a1b2c3d-a.png", "b": tmp_path / "b.png"}
    assert source.rows["line"].tolist() == [7, 7, 8]
    assert source.notes[0] == (
        "annotations that do not count in export.json: 1 predictions of models, 2 skipped by the reader."
    )


def brush(mask: np.ndarray) -> list[int]:
    """Pack an RGBA image whose alpha is the mask as Label Studio does, in literals of 4 values and 8 bits each."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4)
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for start in range(0, len(values), 4):
        # A repeat of a pixel's four values, with a length of the second kind.
        bits += f"1{1:02b}{3:04b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.mark.parametrize(
    ("item", "box"),
    [
        pytest.param(
            region("Mass", x=50, y=50, width=10, height=20, rotation=90),
            # Clockwise about its upper left corner (100, 50): it reaches its height to the left, its width down.
            (100 - 0.20 * HEIGHT, 50, 100, 50 + 0.10 * WIDTH),
            id="a turned rectangle",
        ),
        pytest.param(
            region("Mass", "polygonlabels", points=[[10, 20], [40, 30], [20, 60]], closed=True), BOX, id="a polygon"
        ),
        pytest.param(
            region("Mass", "ellipselabels", x=25, y=40, radiusX=15, radiusY=20, rotation=0), BOX, id="an ellipse"
        ),
        pytest.param(region("Mass", "labels", x=10, y=20, width=30, height=40, rotation=0), BOX, id="separate labels"),
    ],
)
def test_regions_become_their_extent(tmp_path: Path, item: dict, box: tuple) -> None:
    source = read(tmp_path, task(1, UPLOAD, annotation(item)))
    ((name, reader, found),) = rows_by_image(source)["a"]
    assert (name, reader) == ("Mass", "R1")
    assert found == pytest.approx(box)


def test_a_brush_stroke_becomes_its_extent(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 20:80] = True
    item = region("Mass", "brushlabels", format="rle", rle=brush(mask))
    assert rows_by_image(read(tmp_path, task(1, UPLOAD, annotation(item))))["a"] == [("Mass", "R1", BOX)]


def test_what_is_no_region_is_counted(tmp_path: Path) -> None:
    bare = {**rectangle(None), "type": "rectangle"}
    choice = {"type": "choices", "value": {"choices": ["Rotated"]}}
    source = read(tmp_path, task(1, UPLOAD, annotation(rectangle(), bare, {**bare, "id": "r2"}, choice)))
    assert len(source.rows) == 1
    assert "1 mark of export.json left out: region without a label." in source.notes
    assert "1 mark of export.json left out: choices, which is no region." in source.notes
    normal = {"type": "choices", "value": {"choices": ["Normal"]}}
    assert rows_by_image(read(tmp_path, task(1, UPLOAD, annotation(normal))))["a"] == [("No finding", "R1", None)]
    with pytest.raises(TableError, match="task 1: reader R1 says 'No finding' and draws a box on image a"):
        read(tmp_path, task(1, UPLOAD, annotation(normal, rectangle())))


def test_the_last_annotation_of_a_reader_counts(tmp_path: Path) -> None:
    later = annotation(rectangle("ILD"), by=5, updated_at="2026-02-01T10:00:00Z")
    earlier = annotation(rectangle(), by=5, updated_at="2026-01-01T10:00:00Z")
    source = read(tmp_path, task(1, UPLOAD, later, earlier))
    assert [row[0] for row in rows_by_image(source)["a"]] == ["ILD"]
    assert "1 replaced by a later one of the same reader" in source.notes[0]


@pytest.mark.parametrize(
    ("address", "image_id"),
    [
        (UPLOAD, "a"),
        ("upload/1/0a1b2c3d-a.png", "a"),
        ("/data/local-files/?d=set%2Fsub/a%20b.png", "a b"),
        ("https://host/bucket/a.png?X-Amz-Signature=0", "a"),
        ("s3://bucket/1.2.840.10.png", "1.2.840.10"),
        ("C:\\images\\a.png", "a"),
        ("images/0a1b2c3d-a.png", "0a1b2c3d-a"),
    ],
)
def test_addresses_of_images(tmp_path: Path, address: str, image_id: str) -> None:
    assert list(rows_by_image(read(tmp_path, task(1, address, annotation())))) == [image_id]


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_byte_order_mark_and_line_ends(tmp_path: Path, change) -> None:
    text = change(json.dumps([task(1, UPLOAD, annotation(rectangle()))], indent=1))
    assert rows_by_image(read_tree(tmp_path, {"export.json": text})) == {"a": [("Mass", "R1", BOX)]}


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    text = json.dumps([task(1, UPLOAD, annotation(rectangle("Erguß")))], ensure_ascii=False).encode("latin-1")
    with pytest.raises(DatasetError, match=r"export\.json: is not JSON"):
        read_tree(tmp_path, {"export.json": text})


def test_two_uploads_of_one_name_keep_their_prefixes(tmp_path: Path) -> None:
    source = read(tmp_path, task(1, UPLOAD, annotation()), task(2, "/data/upload/1/99999999-a.png", annotation()))
    assert list(rows_by_image(source)) == ["0a1b2c3d-a", "99999999-a"]


def test_a_region_without_its_size_takes_that_of_the_image(tmp_path: Path) -> None:
    item = region("Mass", size=False, x=10, y=20, width=30, height=40, rotation=0)
    source = read(tmp_path, task(1, UPLOAD, annotation(item)), files={"a.png": None})
    assert rows_by_image(source)["a"] == [("Mass", "R1", BOX)]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [rectangle(x=100, width=60)],
            "task 1: a region at 100, 20, 60, 40 goes beyond 100 % of its image; expected per",
        ),
        (
            [rectangle(x=0.1, y=0.2, width=0.3, height=0.4)],
            "task 1: its regions look normalised to 0…1, expected per cent",
        ),
        ([rectangle(x="left")], "task 1: a region holds 'left', expected numbers."),
        ([rectangle(x=None)], "task 1: a region holds None, expected numbers."),
        ([rectangle(width=0)], "task 1: x_max 20 is not beyond x_min 20"),
        ([{**rectangle(), "image_rotation": 90}], "task 1: its image was turned by 90°; turn it back in Label Studio."),
        (
            [{**rectangle(), "original_width": None}],
            "task 1: a region has neither original_width and original_height nor",
        ),
        ([region("Mass", "brushlabels", format="rle", rle=[0, 1, 56, 128, 0])], "task 1: a brush stroke is cut off"),
        (
            [region("Mass", "brushlabels", format="rle", rle=brush(np.ones((2, 2))))],
            "is of 4 pixels, its image is 200 x 100.",
        ),
    ],
)
def test_traps_of_regions(tmp_path: Path, items: list, message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)) as caught:
        read(tmp_path, task(1, UPLOAD, annotation(*items)))
    assert str(caught.value).startswith(f"{tmp_path}/export.json, task 1: ")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task(1, UPLOAD)], "export.json: nobody has read an image of it yet"),
        (
            [task(1, UPLOAD, annotation()), task(2, UPLOAD, annotation())],
            "task 1 and task 2 are both image '0a1b2c3d-a'",
        ),
        ([{"id": 1, "image": "a.png", "annotator": 1, "annotation_id": 3}], "as JSON-MIN has"),
        ([task(1, "", annotation())], "task 1: names no image; expected its address in data"),
        ([{"id": 1, "annotations": [annotation()]}], "task 1: has no data"),
        ([task(1, UPLOAD, {"was_cancelled": False})], "task 1: an annotation has no list `result`"),
    ],
)
def test_traps_of_tasks(tmp_path: Path, tasks: list, message: str) -> None:
    with pytest.raises(TableError, match=re.escape(message)):
        read(tmp_path, *tasks)

"""Counts of images and boxes, by hand."""

from rich.console import Console

from cxr_mmdet.preparation.label_sets import ClassCounts, count_split, counts_table

LABELS = ("Cardiomegaly", "ILD", "Nodule/Mass")
HELD = ((), ("Cardiomegaly",), ("Cardiomegaly", "ILD", "ILD"), ("ILD", "Nodule/Mass"), ())
"""The boxes of five images."""

COCO = {
    "images": [{"id": number} for number in range(1, len(HELD) + 1)],
    "annotations": [
        {"image_id": number, "category_id": 1 + LABELS.index(name)}
        for number, names in enumerate(HELD, start=1)
        for name in names
    ],
    "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS, start=1)],
}


def test_plain_counts():
    counts = count_split(COCO)
    assert (counts.images, counts.images_without_boxes, counts.boxes) == (5, 2, 1 + 3 + 2)
    assert counts.by_class == {
        "Cardiomegaly": ClassCounts(images=2, boxes=2),
        "ILD": ClassCounts(images=2, boxes=2 + 1),
        "Nodule/Mass": ClassCounts(images=1, boxes=1),
    }


def test_an_image_with_a_minority_class_counts_three_times_with_all_its_boxes():
    counts = count_split(COCO, minority=("ILD",))
    assert (counts.images, counts.images_without_boxes, counts.boxes) == (3 + 3 * 2, 2, 1 + 3 * (3 + 2))
    assert counts.by_class == {
        "Cardiomegaly": ClassCounts(images=1 + 3, boxes=1 + 3),
        "ILD": ClassCounts(images=3 * 2, boxes=3 * 3),
        "Nodule/Mass": ClassCounts(images=3, boxes=3),
    }


def test_two_minority_classes_in_one_image_copy_it_once():
    assert count_split(COCO, minority=("ILD", "Nodule/Mass")) == count_split(COCO, minority=("ILD",))


def test_a_split_without_images():
    counts = count_split(COCO | {"images": [], "annotations": []})
    assert (counts.images, counts.images_without_boxes, counts.boxes) == (0, 0, 0)
    assert counts.by_class["ILD"] == ClassCounts(0, 0)


def test_the_table_shows_every_count():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(counts_table("labels x", {"train": count_split(COCO), "augmented": count_split(COCO, ("ILD",))}))
    lines = {line.split("│")[1].strip(): line for line in console.export_text().splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in lines["ILD"].split("│")[2:-1]] == ["2", "3", "6", "9"]
    assert [cell.strip() for cell in lines["no box"].split("│")[2:-1]] == ["2", "0", "2", "0"]
    assert [cell.strip() for cell in lines["all"].split("│")[2:-1]] == ["5", "6", "9", "16"]

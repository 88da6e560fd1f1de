"""The consensus of readers, box by box equal to ensemble-boxes."""

import os

import numpy as np
import pandas as pd
import pytest
from ensemble_boxes import nms, weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mmdet.annotations.consensus import cluster_boxes, fuse_readers
from cxr_mmdet.annotations.table import class_names, read_table, without_regions
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.labels import LABELS_5, LABELS_14, MINORITY_LABELS_5, NO_FINDING

SIZE = 1000
NORMALISER = 4096
"""ensemble-boxes wants boxes in 0...1; a power of two divides pixels without rounding."""
TINY = 1e-9
"""Steps between the scores given to ensemble-boxes: they fix the order of equal scores, which its sort leaves open."""


def readings(*rows):
    """Make rows of image, class, reader, box (None: no finding)."""
    return pd.DataFrame(
        [(image, name, reader, *(box or [np.nan] * 4)) for image, name, reader, box in rows],
        columns=["image_id", "class_name", "reader", *XYXY_COLUMNS],
    )


def phantom_like(seed, images=40, readers=("R8", "R9", "R10", "R11"), classes=3):
    """Make a table in which readers see true boxes with jitter, misses and inventions, and some images are normal."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        chosen = rng.choice(readers, 3, replace=False)
        low = rng.uniform(0, 0.6 * SIZE, (rng.integers(0, 6), 2))
        truth = np.concatenate([low, low + rng.uniform(20, 0.3 * SIZE, low.shape)], axis=1)
        names = rng.integers(0, classes, len(truth))
        for reader in chosen:
            seen = rng.random(len(truth)) < 0.8
            jitter = rng.normal(0, 12, (len(truth), 4))
            drawn = np.clip(truth + jitter, 0, SIZE)
            drawn = np.concatenate([np.sort(drawn[:, [0, 2]]), np.sort(drawn[:, [1, 3]])], axis=1)[:, [0, 2, 1, 3]]
            rows += [
                (f"i{image:03}", f"class {name}", reader, tuple(box))
                for box, name in zip(drawn[seen], names[seen], strict=True)
            ]
            if not seen.any():
                rows.append((f"i{image:03}", NO_FINDING, reader, None))
    return readings(*rows).sample(frac=1, random_state=seed, ignore_index=True)


def fuse_by_ensemble_boxes(rows, *, iou_threshold, method):
    """Return (image, class, score, box) rows as ensemble-boxes makes them, one list a reader, in our order of ties."""
    n_readers = rows.groupby("image_id")["reader"].nunique()
    found = rows[rows["class_name"] != NO_FINDING].sort_values(["score", *XYXY_COLUMNS], ascending=False)
    fused = []
    for (image, name), same in found.groupby(["image_id", "class_name"]):
        boxes = same[XYXY_COLUMNS].to_numpy() / NORMALISER
        scores = same["score"].to_numpy() - TINY * np.arange(len(same))
        readers = same["reader"].to_numpy()
        masks = [readers == reader for reader in np.unique(readers)]
        masks += [np.zeros(len(same), dtype=bool)] * (n_readers[image] - len(masks))
        lists = [boxes[mask] for mask in masks], [scores[mask] for mask in masks], [np.zeros(m.sum()) for m in masks]
        if method == "wbf":
            fused_boxes, fused_scores, _ = weighted_boxes_fusion(*lists, iou_thr=iou_threshold, skip_box_thr=0.21)
        else:
            fused_boxes, fused_scores, _ = nms(*lists, iou_thr=iou_threshold)
        fused += [(image, name, s, *b) for s, b in zip(fused_scores, fused_boxes * NORMALISER, strict=True)]
    return pd.DataFrame(fused, columns=["image_id", "class_name", "score", *XYXY_COLUMNS])


def assert_same_boxes(fused, expected, tolerance):
    # Neighbours in the sorted order may swap when they agree up to rounding.
    keys = ["image_id", "class_name", "x_min", "y_min"]
    fused, expected = (frame.round({"x_min": 2, "y_min": 2}).sort_values(keys) for frame in (fused, expected))
    assert len(fused) == len(expected)
    assert fused["image_id"].tolist() == expected["image_id"].tolist()
    assert fused["class_name"].tolist() == expected["class_name"].tolist()
    columns = ["score", *XYXY_COLUMNS]
    np.testing.assert_allclose(fused[columns].to_numpy(), expected[columns].to_numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", ["wbf", "nms"])
@pytest.mark.parametrize("iou_threshold", [0.2, 0.4, 0.55])
@pytest.mark.parametrize("seed", range(3))
def test_equals_ensemble_boxes_on_tables_like_the_phantoms(method, iou_threshold, seed):
    rows = phantom_like(seed)
    fused = fuse_readers(rows, method=method, iou_threshold=iou_threshold)
    expected = fuse_by_ensemble_boxes(rows.assign(score=1.0), iou_threshold=iou_threshold, method=method)
    # ensemble-boxes keeps fused boxes as float32: 2**-24 * SIZE is 6e-5, its rounded sums a little more.
    assert_same_boxes(fused, expected, tolerance=0.011)


@pytest.mark.parametrize("method", ["wbf", "nms"])
def test_equals_ensemble_boxes_on_crowded_random_boxes_with_scores(method):
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 0.7 * SIZE, (400, 2))
    corners = np.concatenate([low, low + rng.uniform(50, 300, low.shape)], axis=1)
    rows = readings(
        *(("a", f"c{i % 2}", f"R{rng.integers(4)}", tuple(np.clip(box, 0, SIZE))) for i, box in enumerate(corners))
    )
    rows["score"] = rng.uniform(0.1, 1, len(rows)).round(6)
    kept = rows[rows["score"] >= 0.21]
    assert 0 < len(kept) < len(rows)
    expected = fuse_by_ensemble_boxes(kept, iou_threshold=0.4, method=method)
    assert_same_boxes(fuse_readers(rows, method=method), expected, tolerance=0.011)


def test_two_readers_agree_and_one_does_not():
    rows = readings(
        ("a", "Nodule/Mass", "R1", (10, 10, 20, 20)),
        ("a", "Nodule/Mass", "R2", (12, 10, 22, 20)),  # IoU 8 * 10 / (200 - 80) = 2 / 3
        ("a", "Nodule/Mass", "R3", (50, 50, 60, 60)),
        ("b", NO_FINDING, "R1", None),
    )
    fused = fuse_readers(rows)
    assert fused["image_id"].tolist() == ["a", "a"]
    assert fused[XYXY_COLUMNS].to_numpy().tolist() == [[11, 10, 21, 20], [50, 50, 60, 60]]
    assert fused["votes"].tolist() == [2, 1]
    assert fused["readers"].tolist() == [("R1", "R2"), ("R3",)]
    assert fused["score"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_reader_who_saw_nothing_lowers_the_score():
    box = (0, 0, 10, 10)
    rows = readings(("a", "ILD", "R1", box), ("a", NO_FINDING, "R2", None), ("a", NO_FINDING, "R3", None))
    assert fuse_readers(rows)["score"].tolist() == pytest.approx([1 / 3])


def test_a_reader_who_draws_twice_votes_once():
    rows = readings(("a", "ILD", "R1", (0, 0, 10, 10)), ("a", "ILD", "R1", (0, 0, 10, 11)))
    fused = fuse_readers(rows)
    assert fused["votes"].tolist() == [1]
    assert fused[XYXY_COLUMNS].to_numpy().tolist() == [[0, 0, 10, 10.5]]
    assert fused["score"].tolist() == [1]


def test_an_overlap_at_the_threshold_is_not_above_it():
    rows = readings(("a", "ILD", "R1", (0, 0, 10, 10)), ("a", "ILD", "R2", (0, 0, 10, 25)))  # IoU 10 / 25
    assert len(fuse_readers(rows, iou_threshold=0.4)) == 2
    assert len(fuse_readers(rows, iou_threshold=0.399)) == 1


def test_classes_and_images_never_meet():
    box = (0, 0, 10, 10)
    rows = readings(("a", "ILD", "R1", box), ("a", "Infiltration", "R2", box), ("b", "ILD", "R1", box))
    assert len(fuse_readers(rows)) == 3


def test_nms_keeps_a_readers_own_box_and_counts_who_agrees():
    rows = readings(("a", "ILD", "R1", (10, 10, 20, 20)), ("a", "ILD", "R2", (12, 10, 22, 20)))
    fused = fuse_readers(rows, method="nms")
    assert fused[XYXY_COLUMNS].to_numpy().tolist() == [[12, 10, 22, 20]]
    assert fused["votes"].tolist() == [2]
    assert fused["score"].tolist() == [1]


def test_none_keeps_every_box():
    rows = phantom_like(3)
    fused = fuse_readers(rows, method="none")
    found = rows[rows["class_name"] != NO_FINDING].sort_values(["image_id", "class_name", *XYXY_COLUMNS])
    np.testing.assert_array_equal(fused[XYXY_COLUMNS], found[XYXY_COLUMNS])
    assert set(fused["votes"]) == {1}


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="mean"):
        fuse_readers(phantom_like(0), method="mean")


@pytest.mark.parametrize("min_votes", [1, 2, 3, 4])
def test_vote_keeps_the_fused_boxes_that_enough_readers_stand_behind(min_votes):
    rows = phantom_like(4)
    fused = fuse_readers(rows)
    expected = fused[fused["votes"] >= min_votes].reset_index(drop=True)
    assert 0 < len(expected) < len(fused) or min_votes in (1, 4)
    pd.testing.assert_frame_equal(fuse_readers(rows, method="vote", min_votes=min_votes), expected)


def test_a_reader_who_draws_twice_is_no_majority():
    rows = readings(("a", "ILD", "R1", (0, 0, 10, 10)), ("a", "ILD", "R1", (0, 0, 10, 11)))
    assert fuse_readers(rows, method="vote").empty


@pytest.mark.parametrize("method", ["wbf", "nms", "vote", "none"])
def test_nobody_found_anything(method):
    fused = fuse_readers(readings(("a", NO_FINDING, "R1", None)), method=method)
    assert fused.empty
    assert {*XYXY_COLUMNS, "image_id", "class_name", "votes", "score", "readers"} == set(fused.columns)


@pytest.mark.parametrize("method", ["wbf", "nms", "vote"])
def test_the_order_of_rows_changes_nothing(method):
    rows = phantom_like(1)
    expected = fuse_readers(rows, method=method)
    for seed in range(5):
        shuffled = rows.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(fuse_readers(shuffled, method=method), expected, check_exact=True)


def test_the_names_of_readers_change_nothing_else():
    rows = phantom_like(2)
    renamed = rows.assign(reader=rows["reader"].map({"R8": "Z", "R9": "A", "R10": "M", "R11": "B"}))
    expected, fused = fuse_readers(rows), fuse_readers(renamed)
    pd.testing.assert_frame_equal(fused.drop(columns="readers"), expected.drop(columns="readers"), check_exact=True)
    assert fused["readers"].map(set).tolist() != expected["readers"].map(set).tolist()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), powers=st.tuples(st.integers(-4, 4), st.integers(-4, 4)))
def test_scaling_an_axis_scales_the_boxes(seed, powers):
    # Powers of two scale without rounding, so that the comparison can be exact.
    factors = np.array([2.0 ** powers[0], 2.0 ** powers[1]] * 2)
    rows = phantom_like(seed, images=4)
    scaled = rows.copy()
    scaled[XYXY_COLUMNS] *= factors
    expected = fuse_readers(rows)
    expected[XYXY_COLUMNS] *= factors
    pd.testing.assert_frame_equal(fuse_readers(scaled), expected, check_exact=True)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0.05, 0.95))
def test_fused_boxes_lie_within_their_readers_boxes_and_votes_add_up(seed, threshold):
    rows = phantom_like(seed, images=5)
    found = rows[rows["class_name"] != NO_FINDING]
    fused = fuse_readers(rows, iou_threshold=threshold)
    assert set(map(tuple, fused[["image_id", "class_name"]].to_numpy())) == set(
        map(tuple, found[["image_id", "class_name"]].to_numpy())
    )
    assert fused["votes"].sum() <= len(found)
    low = found.groupby(["image_id", "class_name"])[["x_min", "y_min"]].min()
    high = found.groupby(["image_id", "class_name"])[["x_max", "y_max"]].max()
    keys = pd.MultiIndex.from_frame(fused[["image_id", "class_name"]])
    assert (fused[["x_min", "y_min"]].to_numpy() >= low.loc[keys].to_numpy() - 1e-9).all()
    assert (fused[["x_max", "y_max"]].to_numpy() <= high.loc[keys].to_numpy() + 1e-9).all()


def test_groups_of_very_different_size_are_clustered_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), [1, 200, 2, 0, 33, 5])
    _, groups = np.unique(groups, return_inverse=True)
    low = rng.uniform(0, 300, (len(groups), 2))
    boxes = np.concatenate([low, low + 100], axis=1)
    order = rng.permutation(len(groups))
    together = cluster_boxes(boxes, np.ones(len(groups)), groups, 0.3, fuse=True)
    for group in range(5):
        mask = groups == group
        alone = cluster_boxes(boxes[mask], np.ones(mask.sum()), np.zeros(mask.sum(), dtype=int), 0.3, fuse=True)
        np.testing.assert_array_equal(alone, together[mask] - together[mask].min())
    # Groups may be interleaved, as long as each keeps its own order.
    interleaved = np.argsort(order)
    interleaved = interleaved[np.argsort(groups[interleaved], kind="stable")]
    assert len(np.unique(together)) > 5


VINBIGDATA = os.environ.get("CXR_VINBIGDATA_TABLE")
"""vinbigdata-train.csv.gz, as the wheel of torchxrayvision carries it."""


VINBIGDATA_BOXES = {
    "Aortic enlargement": 7162,
    "Atelectasis": 279,
    "Calcification": 960,
    "Cardiomegaly": 5427,
    "Consolidation": 556,
    "ILD": 1000,
    "Infiltration": 1247,
    "Lung Opacity": 2483,
    "Nodule/Mass": 2580,
    "Other lesion": 2203,
    "Pleural effusion": 2476,
    "Pleural thickening": 4842,
    "Pneumothorax": 226,
    "Pulmonary fibrosis": 4655,
}


@pytest.fixture(scope="module")
def vinbigdata():
    if not VINBIGDATA:
        pytest.skip("CXR_VINBIGDATA_TABLE does not name the table")
    return read_table(VINBIGDATA)


@pytest.mark.vinbigdata
def test_vinbigdata_is_read_whole(vinbigdata):
    assert len(vinbigdata) == 67_914
    assert vinbigdata["image_id"].nunique() == 15_000
    assert vinbigdata["reader"].nunique() == 17
    assert set(vinbigdata.groupby("image_id")["reader"].nunique()) == {3}
    found = vinbigdata[vinbigdata["class_name"] != NO_FINDING]
    assert len(found) == 36_096
    assert found["image_id"].nunique() == 4394
    assert found["class_name"].value_counts().to_dict() == VINBIGDATA_BOXES
    assert class_names(vinbigdata) == tuple(VINBIGDATA_BOXES) == LABELS_14
    images = found.groupby("class_name")["image_id"].agg(set)
    assert len(set().union(*images[list(LABELS_5)])) == 3951
    assert len(set().union(*images[list(MINORITY_LABELS_5)])) == 1525


@pytest.mark.vinbigdata
@pytest.mark.parametrize(("iou_threshold", "expected"), [(0.4, 22_715), (0.5, 23_905)])
def test_vinbigdata_gives_the_published_number_of_boxes(vinbigdata, iou_threshold, expected):
    # The published numbers come from one list a reader, in the order in which readers first occur in the table, and
    # ensemble-boxes looks at equal scores from the last to the first.
    found = vinbigdata[vinbigdata["class_name"] != NO_FINDING]
    first = found.groupby(["image_id", "reader"])["line"].transform("min")
    found = found.assign(first=first).sort_values(["first", "line"], ascending=False)
    groups = found.groupby(["image_id", "class_name"]).ngroup().to_numpy()
    clusters = cluster_boxes(found[XYXY_COLUMNS].to_numpy(), np.ones(len(found)), groups, iou_threshold, fuse=True)
    assert clusters.max() + 1 == expected


@pytest.mark.vinbigdata
def test_vinbigdata_in_one_list_an_image_gives_the_published_number_of_boxes(vinbigdata):
    found = vinbigdata[vinbigdata["class_name"] != NO_FINDING].sort_values("line", ascending=False)
    groups = found.groupby(["image_id", "class_name"]).ngroup().to_numpy()
    clusters = cluster_boxes(found[XYXY_COLUMNS].to_numpy(), np.ones(len(found)), groups, 0.4, fuse=True)
    assert clusters.max() + 1 == 22_719


@pytest.mark.vinbigdata
def test_vinbigdata_votes(vinbigdata):
    fused = fuse_readers(vinbigdata)
    assert fused["votes"].value_counts().to_dict() == {1: 13_870, 2: 4248, 3: 4576}
    assert len(fuse_readers(vinbigdata, method="vote")) == 4248 + 4576
    assert len(fuse_readers(vinbigdata, method="none")) == 36_096


@pytest.mark.slow
@pytest.mark.vinbigdata
def test_vinbigdata_equals_ensemble_boxes_box_by_box(vinbigdata):
    fused = fuse_readers(vinbigdata)
    assert len(fused) == 22_694
    compared = sorted(set(fused["image_id"]))[::8]
    some = vinbigdata[vinbigdata["image_id"].isin(compared)]
    expected = fuse_by_ensemble_boxes(some.assign(score=1.0), iou_threshold=0.4, method="wbf")
    assert_same_boxes(fused[fused["image_id"].isin(compared)], expected, tolerance=0.011)


def test_regions_to_ignore_come_through_untouched_and_merge_with_nothing():
    rows = readings(
        ("a", "ILD", "A", (0, 0, 10, 10)),
        ("a", "ILD", "B", (0, 0, 10, 12)),
        ("a", "ILD", "C", (0, 0, 10, 11)),
        ("b", "ILD", "A", (5, 5, 50, 50)),
    ).assign(iscrowd=[False, False, True, True])
    fused = fuse_readers(rows)
    assert fused[["image_id", *XYXY_COLUMNS, "votes", "readers", "iscrowd"]].to_numpy().tolist() == [
        ["a", 0, 0, 10, 11, 2, ("A", "B"), False],
        ["a", 0, 0, 10, 11, 1, ("C",), True],
        ["b", 5, 5, 50, 50, 1, ("A",), True],
    ]
    # C read the image and drew no finding: two of three stand behind the box.
    assert fused["score"][0] == pytest.approx(2 / 3)
    assert without_regions(rows)[["image_id", "class_name", "reader"]].to_numpy().tolist() == [
        ["a", "ILD", "A"],
        ["a", "ILD", "B"],
        ["a", "No finding", "C"],
        ["b", "No finding", "A"],
    ]

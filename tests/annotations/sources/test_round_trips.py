"""Annotations that are written read back equal, with everything that the format says it keeps."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxr_mmdet.annotations.sources import formats, read_source
from cxr_mmdet.annotations.sources.base import Source
from cxr_mmdet.annotations.sources.cvat import IGNORED
from cxr_mmdet.annotations.table import class_names, is_region
from cxr_mmdet.structures.boxes import XYXY_COLUMNS
from cxr_mmdet.structures.coverage import Coverage
from cxr_mmdet.structures.labels import NO_FINDING, is_no_finding, spelling_key

HEIGHT, WIDTH = 37, 53
DECIMALS = 4
WRITABLE = {name: each for name, each in formats().items() if each.write}

names = st.text("aBß漢é '\"<>&,;=%#+-()[]:/\\|_0", min_size=1, max_size=6).map(str.strip).filter(bool)
ids = st.text("aB漢é '&,;=%#+-()_0.", min_size=1, max_size=6).map(str.strip).filter(lambda name: name.strip("."))
ids = ids.filter(lambda name: not name.startswith((".", "__")))


def interval(limit: int) -> st.SearchStrategy[tuple[float, float]]:
    """Corners at whole ten-thousandths of a pixel, two pixels apart at least."""
    low = st.integers(0, (limit - 2) * 10**DECIMALS)
    pairs = low.flatmap(lambda x: st.tuples(st.just(x), st.integers(x + 2 * 10**DECIMALS, limit * 10**DECIMALS)))
    return pairs.map(lambda pair: (pair[0] / 10**DECIMALS, pair[1] / 10**DECIMALS))


@st.composite
def sources(draw: st.DrawFn, keeps: frozenset[str]) -> Source:
    """Draw a source that states all that a format keeps."""
    images = draw(st.lists(ids, min_size=1, max_size=4, unique_by=spelling_key))
    classes = draw(st.lists(names, min_size=1, max_size=3, unique_by=spelling_key))
    assume(not any(is_no_finding(name) or name.lower() in IGNORED for name in classes))
    readers = draw(st.lists(names, min_size=1, max_size=2, unique=True)) if "readers" in keeps else ["R1"]
    read, unread = images[: (len(images) + 1) // 2], images[(len(images) + 1) // 2 :]
    boxes = st.tuples(st.sampled_from(classes), interval(WIDTH), interval(HEIGHT), st.booleans())
    rows = []
    for image in read:
        for reader in (
            readers if len(readers) == 1 else draw(st.lists(st.sampled_from(readers), min_size=1, unique=True))
        ):
            own = draw(st.lists(boxes, max_size=2, unique_by=lambda box: box[:3]))
            rows += [
                (image, name, reader, x[0], y[0], x[1], y[1], flag and "regions" in keeps) for name, x, y, flag in own
            ]
            rows += [] if own else [(image, NO_FINDING, reader, *[np.nan] * 4, False)]
    frame = pd.DataFrame(rows, columns=["image_id", "class_name", "reader", *XYXY_COLUMNS, "iscrowd"])
    frame["class_id"] = frame["class_name"].map({name: number for number, name in enumerate([*classes, NO_FINDING])})
    frame = frame.assign(table_height=HEIGHT, table_width=WIDTH)
    coverage = None
    if "coverage" in keeps:
        levels = draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=len(read), max_size=len(read)))
        present = {(row.image_id, row.class_name) for row in frame[~frame["iscrowd"]].itertuples()}
        partial = {True: Coverage.NOT_EXHAUSTIVE, False: Coverage.UNKNOWN}
        stated = [
            [
                Coverage.EXHAUSTIVE if looked_for else partial[(image, name) in present]
                for looked_for, name in zip(own, classes, strict=False)
            ]
            for image, own in zip(read, levels, strict=True)
        ]
        coverage = pd.DataFrame(stated, index=read, columns=classes, dtype=np.int8)
    split = None
    if "split" in keeps and len(read) > 1 and draw(st.booleans()):
        split = {image: ("train", "val")[number % 2] for number, image in enumerate(images)}
    return Source(Path("drawn"), frame, coverage=coverage, split=split, unread=tuple(unread))


def facts(source: Source, keeps: frozenset[str]) -> tuple:
    """Return what a source states, in one order."""
    rows = source.rows
    boxes = np.round(rows[XYXY_COLUMNS].fillna(-1).to_numpy(float), DECIMALS).tolist()
    drawn = sorted(zip(rows["image_id"], rows["class_name"], rows["reader"], boxes, is_region(rows), strict=True))
    partial = []
    if source.coverage is not None and "coverage" in keeps:
        levels = source.coverage.loc[sorted(set(rows["image_id"]))].to_dict("index")
        partial = sorted(
            (image, name, int(level)) for image, own in levels.items() for name, level in own.items() if level < 2
        )
    return drawn, class_names(rows), partial, source.split, sorted(source.unread)


@pytest.mark.parametrize("name", list(WRITABLE))
def test_what_is_written_reads_back_equal(name: str) -> None:
    target = WRITABLE[name]

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(sources(target.keeps))
    def check(source: Source) -> None:
        with TemporaryDirectory() as folder:
            assert target.write is not None
            places = target.write(source, Path(folder))
            assert set(places) == {*source.rows["image_id"], *source.unread}
            for place in places.values():
                path = Path(folder, place if place.endswith(".png") else f"{place}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (WIDTH, HEIGHT)).save(path)
            found = read_source(Path(folder))
        assert found.format == name
        if name == "vinbigdata" or (name == "cvat" and source.unread):
            # Only the file itself tells of an image that nobody read.
            assert not found.unread
            found = type(found)(found.path, found.rows, split=found.split, unread=source.unread)
        if name == "cvat" and source.split:
            source = type(source)(
                source.path, source.rows, split={i: source.split[i] for i in set(source.rows["image_id"])}
            )
            found = type(found)(found.path, found.rows, split=found.split)
        assert facts(found, target.keeps) == facts(source, target.keeps)

    check()

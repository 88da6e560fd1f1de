"""Near-identical images: found in other clothes, not invented."""

import json

import cv2
import numpy as np
import pytest

from cxr_mmdet.errors import DatasetError
from cxr_mmdet.phantom import write_phantoms
from cxr_mmdet.preparation.images import prepare_images
from cxr_mmdet.preparation.near_duplicates import (
    MAX_DISTANCE,
    NearDuplicates,
    find_near_duplicates,
    fingerprint_images,
    pairs_across,
)
from cxr_mmdet.structures.radiograph_files import find_originals


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return 24 prepared phantoms of as many and fewer patients."""
    root = tmp_path_factory.mktemp("phantoms")
    write_phantoms(root / "src", images=24, size=256, seed=5)
    prepare_images(find_originals(root / "src"), root / "out/images", short_edge=0)
    return {path.stem: path for path in sorted((root / "out/images").iterdir())}


def jpeg(pixels):
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


def half(pixels):
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def brighter(pixels):
    return np.clip(pixels * 1.1, 0, 255).astype(np.uint8)


def test_radiographs_of_different_patients_are_no_near_duplicates(images, tmp_path):
    assert find_near_duplicates(fingerprint_images(images, tmp_path / "f.json")) == []


@pytest.mark.parametrize("change", [np.copy, jpeg, half, brighter])
def test_an_image_in_other_clothes_is_found(images, tmp_path, change):
    name, path = next(iter(images.items()))
    cv2.imwrite(str(tmp_path / "again.png"), change(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))
    (near_duplicates,) = find_near_duplicates(
        fingerprint_images(images | {"again": tmp_path / "again.png"}, tmp_path / "f.json")
    )
    assert {near_duplicates.first, near_duplicates.second} == {name, "again"}
    assert near_duplicates.distance <= MAX_DISTANCE


def test_distances_are_counted_in_bits_and_sorted():
    one = f"{0:064x}"
    hashes = {"c": one, "a": f"{0b111:064x}", "b": one, "far": "f" * 64}
    assert find_near_duplicates(hashes, 3) == [
        NearDuplicates("b", "c", 0),
        NearDuplicates("a", "b", 3),
        NearDuplicates("a", "c", 3),
    ]
    assert find_near_duplicates(hashes, 2) == [NearDuplicates("b", "c", 0)]
    assert find_near_duplicates({"a": one}) == find_near_duplicates({}) == []


def test_pairs_are_found_beyond_one_block_of_rows():
    rng = np.random.default_rng(0)
    hashes = {f"i{number:05}": rng.bytes(32).hex() for number in range(2100)}
    hashes["i02099"] = hashes["i00003"]
    hashes["i01500"] = hashes["i01400"]
    assert find_near_duplicates(hashes) == [
        NearDuplicates("i00003", "i02099", 0),
        NearDuplicates("i01400", "i01500", 0),
    ]


def test_only_pairs_across_the_split_matter():
    near_duplicates = [NearDuplicates("a", "b", 0), NearDuplicates("c", "d", 1)]
    assert pairs_across(near_duplicates, {"a", "c", "d"}) == [NearDuplicates("a", "b", 0)]


def test_hashes_of_unchanged_images_are_kept(images, tmp_path):
    cache = tmp_path / "f.json"
    chosen = dict(list(images.items())[:3])
    hashes = fingerprint_images(chosen, cache)
    before = cache.read_bytes()
    assert fingerprint_images(chosen, cache) == hashes
    assert cache.read_bytes() == before
    known = json.loads(before)
    name = next(iter(chosen))
    known[name] = [known[name][0], "f" * 64]
    cache.write_text(json.dumps(known))
    assert fingerprint_images(chosen, cache)[name] == "f" * 64
    known[name][0] = "00000000"
    cache.write_text(json.dumps(known))
    assert fingerprint_images(chosen, cache) == hashes
    cache.write_text("{")
    assert fingerprint_images(chosen, cache, jobs=2) == hashes


def test_what_cannot_be_decoded_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for name in ("a", "b"):
        with pytest.raises(DatasetError, match=rf"{name}\.png"):
            fingerprint_images({name: tmp_path / f"{name}.png"}, tmp_path / "f.json")

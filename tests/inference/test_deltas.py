"""A box branch that computes what it is asked for gives what the whole maps hold."""

from __future__ import annotations

import numpy as np
import pytest
from detectors import bundle_of, checkpoint_of, write_image

from cxr_mmdet.inference.bundle import Bundle
from cxr_mmdet.inference.predictor import Predictor, as_radiograph


def maps_of(model, tmp_path, images: int = 2):
    batch = [
        model.preprocessing(as_radiograph(write_image(tmp_path / f"{seed}.png", 150, 120, seed)).pixels).batch
        for seed in range(images)
    ]
    return model.backend.maps(np.concatenate(batch))


def random_places(scores, channels: int, seed: int) -> list[np.ndarray]:
    """Return anchors of each level: the first, the last and some between; of one level none."""
    rng = np.random.default_rng(seed)
    places = []
    for level in scores:
        count = level[0].size // channels
        some = rng.choice(count, min(count, int(rng.integers(1, 6))), replace=False)
        places.append(np.concatenate([[0, count - 1], some, some[:1]]))
    places[int(rng.integers(len(places)))] = np.empty(0, dtype=np.int64)
    return places


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_asked_for_or_whole(tmp_path, form):
    path = bundle_of("retina_wide", form)
    assert Bundle.open(path).box_depth == 5
    exported, reference = Predictor.load(path).model, Predictor.load(checkpoint_of("retina_wide")).model
    (scores, found, *_), (_, expected, *_) = maps_of(exported, tmp_path), maps_of(reference, tmp_path)
    for seed in range(12):
        places = random_places(scores, exported.spec.maps.channels, seed)
        for got, wanted in zip(found.at(seed % 2, places), expected.at(seed % 2, places), strict=True):
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-4)


def test_without_candidates_the_branch_does_not_run(tmp_path, monkeypatch):
    predictor = Predictor.load(bundle_of("retina_wide", "onnx"))
    run, graphs = predictor.model.backend._run, []
    monkeypatch.setattr(
        predictor.model.backend, "_run", lambda name, inputs: (graphs.append(name), run(name, inputs))[1]
    )
    image = write_image(tmp_path / "a.png")
    assert len(predictor.predict(image, score_threshold=1.0)) == 0
    assert graphs == ["maps"]
    assert len(predictor.predict(image)) > 0
    assert graphs == ["maps", "maps", "boxes"]


def test_a_head_with_norms_over_whole_maps_has_no_branch_of_its_own():
    assert Bundle.open(bundle_of("retina", "onnx")).box_depth == 0

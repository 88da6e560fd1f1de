import cv2
import numpy as np
import pytest

from cxr_mmdet.datasets.augmentation import RandomAcquisition, RandomClahe, RandomExposure, exposure_table


def test_nothing_to_draw_changes_nothing():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(RandomExposure(0, 0, 0)({"img": image})["img"], image)


@pytest.mark.parametrize(
    ("gamma", "contrast", "brightness", "level", "expected"),
    [
        (2, 1, 0, 128, 255 * (128 / 255) ** 2),
        (1, 0.5, 0, 255, 255 * 0.75),
        (1, 1, 0.2, 51, 51 + 51),
        (1, 1, 0.1, 0, 0),
    ],
)
def test_levels_follow_the_formula_and_black_stays(gamma, contrast, brightness, level, expected):
    assert exposure_table(gamma, contrast, brightness)[level] == round(expected)


def test_levels_keep_their_order():
    for seed in range(50):
        np.random.seed(seed)  # noqa: NPY002
        levels = RandomExposure()({"img": np.arange(256, dtype=np.uint8)[None]})["img"][0].astype(int)
        assert (np.diff(levels) >= 0).all()
        assert levels.max() > 150


def test_draws_follow_the_global_seed():
    image = np.full((2, 2), 100, np.uint8)

    def draw(seed: int) -> int:
        np.random.seed(seed)  # noqa: NPY002
        return int(RandomExposure()({"img": image})["img"][0, 0])

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(20)}) > 5


class TestRandomClahe:
    def test_is_opencvs_but_for_black(self):
        image = np.random.default_rng(0).integers(0, 90, (64, 80), dtype=np.uint8)
        image[:, :20] = 0
        out = RandomClahe(probability=1, clip_limit=(2, 2), tiles=4)({"img": image})["img"]
        expected = cv2.createCLAHE(clipLimit=2, tileGridSize=(4, 4)).apply(image)
        np.testing.assert_array_equal(out[image > 0], expected[image > 0])
        assert (out[image == 0] == 0).all()
        assert (expected[image == 0] > 0).any()  # what the exception is for

    def test_raises_the_contrast_of_a_faint_finding(self):
        rows, columns = np.mgrid[:128, :128]
        image = (100 + 4 * ((rows - 64) ** 2 + (columns - 64) ** 2 < 100)).astype(np.uint8)
        image += np.random.default_rng(0).integers(0, 6, image.shape, dtype=np.uint8)
        out = RandomClahe(probability=1, clip_limit=(2, 2))({"img": image})["img"]
        assert np.ptp(out[60:68, 30:98]) > 1.5 * np.ptp(image[60:68, 30:98])

    @pytest.mark.parametrize(("probability", "low", "high"), [(0, 0, 0), (1, 200, 200), (0.3, 40, 80)])
    def test_happens_as_often_as_it_is_told(self, probability, low, high):
        image = np.random.default_rng(0).integers(0, 90, (16, 16), dtype=np.uint8)
        np.random.seed(0)  # noqa: NPY002
        step = RandomClahe(probability=probability)
        changed = sum(not np.array_equal(step({"img": image})["img"], image) for _ in range(200))
        assert low <= changed <= high  # 60 of 200, standard deviation 6.5

    def test_leaves_the_loaders_image_alone(self):
        image = np.random.default_rng(0).integers(0, 90, (16, 16), dtype=np.uint8)
        before = image.copy()
        RandomClahe(probability=1)({"img": image})
        np.testing.assert_array_equal(image, before)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
    def test_images_smaller_than_the_grid(self, shape):
        assert RandomClahe(probability=1)({"img": np.full(shape, 7, np.uint8)})["img"].shape == shape


class TestRandomAcquisition:
    @pytest.fixture
    def chest(self):
        image = np.random.default_rng(0).integers(40, 200, (96, 128), dtype=np.uint8)
        image[:, :30] = 0
        return image

    def test_nothing_to_draw_changes_nothing(self, chest):
        for seed in range(6):
            np.random.seed(seed)  # noqa: NPY002
            out = RandomAcquisition(haze=0, blur=0, sharpening=0, devices=0)({"img": chest.copy()})["img"]
            np.testing.assert_array_equal(out, chest)

    def test_padding_stays_black_and_draws_follow_the_global_seed(self, chest):
        def draw(seed):
            np.random.seed(seed)  # noqa: NPY002
            return RandomAcquisition(haze=1, devices=0)({"img": chest.copy()})["img"]

        drawn = [draw(seed) for seed in range(8)]
        assert all((image[:, :30] == 0).all() and image.dtype == np.uint8 for image in drawn)
        assert len({image.tobytes() for image in drawn}) == len(drawn)
        np.testing.assert_array_equal(draw(3), drawn[3])

    def test_devices_are_thin_and_brighter(self, chest):
        for seed in range(8):
            np.random.seed(seed)  # noqa: NPY002
            out = RandomAcquisition(haze=0, blur=0, sharpening=0, devices=3)({"img": chest.copy()})["img"]
            assert (out >= chest).all()
            assert (out > chest).mean() < 0.25

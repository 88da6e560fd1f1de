import math
from fractions import Fraction

import numpy as np
import pytest
from labelled_images import LabelledImages, eight_abnormal_of_twelve

from cxr_mmdet.datasets.draw_plan import plan_draws
from cxr_mmdet.errors import ConfigError


def test_repeat_factors_are_lviss_over_the_images_with_findings():
    plan = plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5)
    of_b, of_c = math.sqrt(0.5 / (2 / 8)), math.sqrt(0.5 / (1 / 8))
    np.testing.assert_allclose(plan.class_factors, [1, of_b, of_c])  # A: 0.5 / (8/8) is below 1
    np.testing.assert_allclose(plan.factors, [1, 1, 1, 1, 1, 1, of_b, of_c, 1, 1, 1, 1])
    np.testing.assert_allclose(plan.shares(), plan.factors / (10 + of_b + of_c))


def test_factors_are_mmengines_when_there_is_no_normal_study():
    from mmengine.dataset import ClassBalancedDataset

    data = LabelledImages([[0], [0], [0, 1], [0], [1, 2], [0, 0]])
    theirs = ClassBalancedDataset._get_repeat_factors(type("Wrapper", (), {"dataset": data})(), data, 0.7)
    np.testing.assert_allclose(plan_draws(data, repeat_threshold=0.7).factors, theirs)


def test_normal_studies_do_not_change_the_factors():
    data = eight_abnormal_of_twelve()
    more = LabelledImages(data.labels + [[]] * 50)
    ours, theirs = (plan_draws(each, repeat_threshold=0.5).class_factors for each in (data, more))
    np.testing.assert_array_equal(ours, theirs)


def test_images_that_do_not_show_a_class_do_not_count_as_without_it():
    """B is in 1 of 2 images with a finding that were looked through for it, in 1 of 8 if unknown were absent."""
    labels = [[0], [0], [0], [0], [0], [0], [0], [1], []]
    looked_for_b = [2, 0, 0, 1, 0, 0, 0, 2, 0]
    data = LabelledImages(labels, coverage=[[2, value, 2] for value in looked_for_b])
    plan = plan_draws(data, repeat_threshold=0.8, repeat_classes=["A", "B"])
    np.testing.assert_allclose(plan.class_factors, [1, math.sqrt(0.8 / (1 / 2)), 1])
    assert not plan.normal.any()
    with pytest.raises(ConfigError, match="has a box or was not looked through for all classes"):
        plan_draws(data, normal_share=0.25)
    full = plan_draws(LabelledImages(labels, coverage=[[2, 2, 2]] * 9), repeat_threshold=0.8, repeat_classes=["B"])
    assert full.known is None
    np.testing.assert_allclose(full.class_factors, [1, math.sqrt(0.8 / (1 / 8)), 1])


def test_only_the_named_classes_are_repeated():
    plan = plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5, repeat_classes=["B"])
    np.testing.assert_allclose(plan.class_factors, [1, math.sqrt(2), 1])
    one_name = plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5, repeat_classes="B")  # from --cfg-options
    np.testing.assert_array_equal(plan.factors, one_name.factors)


def test_a_share_of_normals_leaves_the_rest_to_findings_by_their_factors():
    plan = plan_draws(eight_abnormal_of_twelve(), repeat_threshold=0.5, normal_share=0.2)
    shares = plan.shares()
    normal = np.array([not labels for labels in plan.labels])
    assert plan.normal_share == Fraction(1, 5)
    np.testing.assert_allclose(shares[normal], 0.2 / 4)
    np.testing.assert_allclose(shares[~normal], 0.8 * plan.factors[~normal] / plan.factors[~normal].sum())
    assert shares.sum() == pytest.approx(1)


def test_no_normals_on_request():
    shares = plan_draws(eight_abnormal_of_twelve(), normal_share=0).shares()
    np.testing.assert_allclose(shares, [1 / 8, 1 / 8, 1 / 8, 0, 1 / 8, 0, 1 / 8, 1 / 8, 0, 1 / 8, 1 / 8, 0])
    assert plan_draws(LabelledImages([[0], [1], [2]]), normal_share=0).shares().sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0], [1], []], dict(repeat_threshold=0.2), "asks to repeat C, of which .* no box; name the classes"),
        ([[], []], dict(repeat_threshold=0.2), "asks to repeat A, B, C"),
        ([[0], [1], []], dict(repeat_threshold=0.2, repeat_classes=["A", "C"]), "asks to repeat C"),
        ([[0], [1], [2]], dict(repeat_threshold=0.2, repeat_classes=["A", "D"]), "holds D, the data A, B, C"),
        ([[0], [1], [2]], dict(repeat_classes=["A"]), "repeat_classes has no effect without repeat_threshold"),
        ([[0], [1], [2]], dict(repeat_threshold=0), "repeat_threshold is 0, expected above 0"),
        ([[0], [1], [2]], dict(repeat_threshold=1.5), "repeat_threshold is 1.5, expected"),
        ([[0], [1], [2]], dict(normal_share=0.25), "each of the 3 training images has a box; .*--drop-normals"),
        ([[], []], dict(normal_share=0.25), "none of the 2 training images has a box"),
        ([[], []], dict(normal_share=0), "none of the 2 training images has a box"),
        ([[0], []], dict(normal_share=1), "normal_share is 1, expected from 0 to below 1"),
        ([[0], []], dict(normal_share=-0.1), "normal_share is -0.1, expected"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(labels, options, message):
    with pytest.raises(ConfigError, match=message):
        plan_draws(LabelledImages(labels), **options)


def test_a_data_set_that_does_not_tell_its_labels():
    with pytest.raises(ConfigError, match="list does not tell"):
        plan_draws([1, 2, 3], normal_share=0.5)

import pytest
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from benchmarks.stock import stock_model, stock_steps
from cxr_mmdet.engine.config import annotated_parts, load_config
from cxr_mmdet.errors import ConfigError

init_default_scope("mmdet")


def pipeline(name: str) -> list[dict]:
    return annotated_parts(load_config(name).train_dataloader)[0]["pipeline"]


def test_the_recipes_steps_have_stock_counterparts():
    steps = stock_steps(pipeline("retina_14cls"))
    assert [step and step["type"] for step in steps] == [
        "LoadImageFromFile",
        "LoadAnnotations",
        "RandomChoiceResize",
        None,
        "PackDetInputs",
    ]
    assert steps[2] == dict(pipeline("retina_14cls")[2])  # the same sizes to draw from


def test_a_step_that_stock_mmdet_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"MinorityFlipRot90 has no counterpart.*retina_14cls"):
        stock_steps(pipeline("retina_5cls"))


@pytest.mark.parametrize("name", ["retina_phantom", "retina_14cls", "faster_rcnn_5cls"])
def test_the_stock_model_holds_no_part_of_ours(name):
    config = load_config(name)
    stock, ours = MODELS.build(stock_model(config.model)), MODELS.build(config.model)
    assert not [part for part in stock.modules() if type(part).__module__.startswith("cxr_mmdet")]
    own = {type(part).__name__ for part in ours.modules() if type(part).__module__.startswith("cxr_mmdet")}
    assert own == {"GreyDetDataPreprocessor", *["SteadyRetinaHead"] * ("retina" in name)}
    assert stock.state_dict().keys() == ours.state_dict().keys()


def test_the_config_is_left_as_it_was():
    config = load_config("retina_phantom")
    stock_model(config.model)
    assert config.model.data_preprocessor.type == "GreyDetDataPreprocessor"

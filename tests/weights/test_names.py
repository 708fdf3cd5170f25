"""The tables of names: no two tensors get the same name, and examples agree with the libraries."""

import pytest

from efficientnet import MOBILENET_V2, RESNET_50, create_model, get_variant
from efficientnet.weights.names import NAMES, OURS, find_names, operator_of, translate

EXAMPLES = {
    "torchvision": ("features.1.1.block.0.0.weight", "features.5.0.block.2.fc1.bias", "features.8.1.running_var"),
    "timm": ("blocks.0.1.conv_dw.weight", "blocks.4.0.se.conv_reduce.bias", "bn2.running_var"),
    "lukemelas": ("_blocks.1._depthwise_conv.weight", "_blocks.12._se_reduce.bias", "_bn1.running_var"),
    "transformers": (
        "encoder.blocks.1.depthwise_conv.depthwise_conv.weight",
        "encoder.blocks.12.squeeze_excite.reduce.bias",
        "encoder.top_bn.running_var",
    ),
    "mmpretrain": (
        "layers.1.1.depthwise_conv.conv.weight",
        "layers.4.4.se.conv1.conv.bias",
        "layers.6.bn.running_var",
    ),
}
OURS_OF_THE_EXAMPLES = ("body.0.1.depthwise.conv.weight", "body.4.0.gate.squeeze.bias", "head.norm.running_var")


@pytest.fixture(scope="module")
def b1():
    return create_model("b1")


@pytest.mark.parametrize("library", EXAMPLES)
def test_examples_of_b1(library, b1):
    """Tensors of the second block of the first stage, the first block of the fifth, and the head."""
    names = find_names(library, "mbconv")
    translation = translate(names, b1.stages, b1.state_dict())
    assert tuple(translation[name] for name in OURS_OF_THE_EXAMPLES) == EXAMPLES[library]
    assert names.outer("stem.conv.weight") == translation["stem.conv.weight"]
    assert names.outer("classifier.bias") == translation["classifier.bias"]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: f"{names.library}-{names.operator}")
def test_no_two_tensors_get_one_name_and_the_signature_is_this_tables_only(names):
    stages = {"mbconv": get_variant("b1").stages, "inverted_residual": MOBILENET_V2.stages}
    model = create_model(stages.get(names.operator, RESNET_50.stages))
    translation = translate(names, model.stages, model.state_dict())
    assert len(set(translation.values())) == len(translation)
    matching = [other for other in (*NAMES, OURS) if any(n.startswith(other.signature) for n in translation.values())]
    assert matching == [names]


def test_our_own_names_are_themselves(b1):
    translation = translate(OURS, b1.stages, b1.state_dict())
    assert all(ours == theirs for ours, theirs in translation.items())


def test_tables_are_found_by_library_and_operator():
    assert find_names("timm_tf", "mbconv") is find_names("timm", "mbconv")
    assert find_names("ours", operator_of(RESNET_50.stages)) is OURS
    with pytest.raises(ValueError, match=r"lukemelas.*bottleneck"):
        find_names("lukemelas", "bottleneck")

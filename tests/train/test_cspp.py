"""C-SPP against the paper's figures: layer by layer, and counted by hand."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train.models import FAMILIES, cspp
from train.models.blocks import Residual, SpatialPyramidPooling


def conv(inputs, outputs, kernel):
    return inputs * outputs * kernel * kernel + outputs


def dense(inputs, outputs):
    return inputs * outputs + outputs


PLAIN7 = conv(1, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3) + conv(64, 64, 5) + conv(64, 128, 3) + conv(128, 128, 3)
PLAIN8 = PLAIN7 - conv(64, 64, 5) + 2 * conv(64, 64, 3)


def residual(inputs, outputs):
    """Two convolutions and, where the shape changes, the short cut; each with the two vectors of its normalisation."""
    short = inputs * outputs + 2 * outputs if inputs != outputs else 0
    return 9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs + short


RESIDUAL = 9 * 32 + 64 + 9 * 32 * 64 + 128 + 2 * residual(64, 64) + residual(64, 128) + residual(128, 128)
PARAMETERS = {
    "baseline": conv(1, 32, 5) + conv(32, 64, 7) + dense(12 * 12 * 64, 256) + dense(256, 7),
    "plain7": PLAIN7 + dense(6 * 6 * 128, 256) + dense(256, 7),
    "plain8": PLAIN8 + dense(6 * 6 * 128, 256) + dense(256, 7),
    "cspp": PLAIN7 + dense((9 + 4 + 1) * (128 + 64), 256) + dense(256, 7),
    "residual": RESIDUAL + residual(128, 256) + 14 * (256 + 128) * 256 + 512 + dense(256, 7),
}


@pytest.mark.parametrize("variant", cspp.VARIANTS)
def test_parameters(variant):
    network = cspp.CSPP(cspp.Config(variant=variant))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[variant]
    assert network(torch.zeros(2, 1, 48, 48)).shape == (2, 7)


def test_shapes_inside():
    network = cspp.CSPP(cspp.Config())
    shapes = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, answer: shapes.append(tuple(answer.shape[1:])))
    network.hidden.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape[1:])))
    network(torch.zeros(1, 1, 48, 48))
    assert shapes == [(32, 48, 48), (64, 24, 24), (128, 12, 12), (2688,)]


def test_the_residual_trunk_halves_by_stride():
    network = cspp.CSPP(cspp.Config(variant="residual", hidden=64)).eval()
    shapes = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, answer: shapes.append(tuple(answer.shape[1:])))
    network.hidden.register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0].shape[1:])))
    network(torch.zeros(1, 1, 48, 48))
    assert shapes == [(64, 24, 24), (128, 12, 12), (256, 6, 6), (5376,)]
    assert sum(p.numel() for p in network.parameters()) < 2_000_000


def test_a_wider_trunk_has_as_many_times_the_filters():
    narrow, wide = (cspp.CSPP(cspp.Config(variant="residual", hidden=64, width=width)) for width in (1, 2))
    count = [sum(p.numel() for p in network.blocks.parameters() if p.dim() == 4) for network in (narrow, wide)]
    # All but the first convolution, which eats one channel either way, have both their sides doubled.
    assert count[1] == 4 * (count[0] - 9 * 32) + 2 * 9 * 32
    assert wide.eval()(torch.zeros(2, 1, 48, 48)).shape == (2, 7)


@pytest.mark.parametrize("config", [cspp.Config(width=2), cspp.Config(variant="residual", width=0)])
def test_a_width_that_no_network_has(config):
    with pytest.raises(ValueError, match="expected 1, or more with residual"):
        cspp.CSPP(config)


def test_a_residual_block_that_learnt_nothing_hands_its_input_on():
    """He et al. 2016, equation 2: what is learnt is what to add."""
    block = Residual(8, 8).eval()
    torch.nn.init.zeros_(block.second[0].weight)
    features = torch.rand(2, 8, 6, 6)
    assert torch.equal(block(features), features)


def test_the_third_pool_may_be_left_out_before_the_pyramid():
    features = torch.randn(2, 5, 12, 12)
    pyramid = SpatialPyramidPooling()
    assert torch.equal(pyramid(features), pyramid(torch.nn.functional.max_pool2d(features, 2)))


@pytest.mark.parametrize("side", [6, 12, 24])
def test_pyramid_bins(side):
    """Figure 5: each bin is the maximum of its cell."""
    features = np.random.default_rng(0).standard_normal((1, 2, side, side)).astype(np.float32)
    wanted = []
    for level in (3, 2, 1):
        cell = side // level
        wanted += [
            features[0, channel, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell].max()
            for channel in range(2)
            for row in range(level)
            for column in range(level)
        ]
    assert SpatialPyramidPooling()(torch.from_numpy(features))[0].numpy() == pytest.approx(np.array(wanted))


def test_the_papers_recipe():
    """Table 2."""
    recipe = FAMILIES["cspp"].recipes["paper"]
    assert (recipe.learning_rate, recipe.batch, recipe.epochs, recipe.momentum) == (0.0009, 128, 50, 0.9)
    assert 1 - recipe.label_smoothing == 0.9
    assert cspp.Config().dropout == 0.5
    assert not cspp.Config().batch_norm


def test_unknown_variant():
    with pytest.raises(
        ValueError, match="unknown C-SPP variant 'plain9'; expected one of baseline, plain7, plain8, cspp, residual"
    ):
        cspp.CSPP(cspp.Config(variant="plain9"))

"""EmotionalVlan: equation (1), the three widths, every row of Tables 1 to 3, the rings."""

from __future__ import annotations

import math

import pytest
import torch

from train.models.emotional_vlan import Config, EmotionalVlan, VlanNetwork, build

WIDTH = 1 / 64  # fc6 and fc7 of 64, convolutions of 1 to 6 channels
CONVOLUTIONS = 2_469_696
FC6, FC7 = 9216 * 4096 + 4096, 4096 * 4096 + 4096


def small(**changes: object) -> Config:
    return Config(**{"width": WIDTH, "length": 4, **changes})  # type: ignore[arg-type]


def lively(config: Config, seed: int = 0) -> VlanNetwork:
    """A network whose features vary with the picture: at such widths PyTorch's own initialisation is all bias.

    In double precision, so that the order of sums in a batch doesn't show.
    """
    torch.manual_seed(seed)
    network = build(config)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    return network.double()


def images(segments: int = 2, frames: int = 3) -> torch.Tensor:
    return torch.randn(segments, frames, 3, 67, 67, dtype=torch.float64)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_equation_1_cell_by_cell() -> None:
    torch.manual_seed(0)
    x_s, x_t = torch.rand(2, 4, 5), torch.rand(2, 4, 5)  # (N, T, cells)
    layer = EmotionalVlan(5)
    torch.nn.init.normal_(layer.a)
    a = layer.a.tolist()
    both = torch.stack([x_s, x_t], dim=1)
    expected = [
        [sum(math.exp(a[k]) * (float(x_s[n, i, k]) + float(x_t[n, i, k])) for i in range(4)) for k in range(5)]
        for n in range(2)
    ]
    torch.testing.assert_close(layer(both), torch.tensor(expected))
    layer.keep = "frames"
    kept = [
        [math.exp(a[k]) * (float(x_s[n, i, k]) + float(x_t[n, i, k])) for i in range(4) for k in range(5)]
        for n in range(2)
    ]
    torch.testing.assert_close(layer(both), torch.tensor(kept))
    layer.keep = "streams"
    apart = [
        [math.exp(a[k]) * float(x[n, i, k]) for x in (x_s, x_t) for i in range(4) for k in range(5)] for n in range(2)
    ]
    torch.testing.assert_close(layer(both), torch.tensor(apart))


@pytest.mark.parametrize(("keep", "width"), [("sum", 4096), ("frames", 61_440), ("streams", 122_880)])
def test_widths_and_sizes_of_the_paper(keep: str, width: int) -> None:
    with torch.device("meta"):
        network = build(Config(keep=keep))
        clip = torch.zeros(2, 15, 3, 227, 227)
    assert network.logits.in_features == width
    assert network.encode_frame(clip[:, 0]).shape == (2, 4096)
    assert network(clip, clip).shape == (2, 6)
    assert parameters(network) == 2 * (CONVOLUTIONS + FC6 + FC7) + 4096 + width * 6 + 6


def test_sizes_of_the_ablations() -> None:
    with torch.device("meta"):
        stream, tail = CONVOLUTIONS + FC6 + FC7, 4096 * 6 + 6
        assert stream == 57_003_840  # torchvision's 61,100,840 without its fc8
        assert parameters(build(Config(layer="fc6"))) == 2 * (stream - FC7) + 4096 + tail
        assert parameters(build(Config(streams="spatial"))) == stream + 4096 + tail
        assert parameters(build(Config(aggregation="fixed"))) == 2 * stream + tail
        assert parameters(build(Config(shared=False))) == 30 * stream + 4096 + tail
        assert parameters(build(Config(shared=False, length=20))) == 38 * stream + 4096 + tail


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("keep", ["sum", "frames", "streams"])
@pytest.mark.parametrize("layer", ["fc6", "fc7"])
@pytest.mark.parametrize("streams", ["both", "spatial", "temporal"])
def test_every_ablation_runs_both_ways(streams: str, layer: str, keep: str, shared: bool) -> None:
    network = lively(small(streams=streams, layer=layer, keep=keep, shared=shared, dropout=0.0))
    frames = images() if streams != "temporal" else None
    flows = images() if streams != "spatial" else None
    torch.autograd.backward(torch.nn.functional.cross_entropy(network(frames, flows), torch.tensor([0, 5])))
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
    assert network.vlan.a.grad is not None
    assert network.vlan.a.grad.any()


@pytest.mark.parametrize("streams", ["both", "spatial", "temporal"])
def test_a_sliding_window_through_the_rings(streams: str) -> None:
    network = lively(small(streams=streams)).eval()
    torch.nn.init.normal_(network.vlan.a)
    video = images(1, 5) if streams != "temporal" else None
    flow = images(1, 5) if streams != "spatial" else None
    answers = []
    for start in range(3):
        window = range(start, start + 3)
        spatial = None if video is None else torch.stack([network.encode_frame(video[:, i]) for i in window], 1)
        temporal = None if flow is None else torch.stack([network.encode_flow(flow[:, i]) for i in window], 1)
        frames = None if video is None else video[:, start : start + 3]
        flows = None if flow is None else flow[:, start : start + 3]
        answers.append(network.head(spatial, temporal))
        torch.testing.assert_close(answers[-1], network(frames, flows))
    assert not torch.allclose(answers[0], answers[1])


def test_unshared_streams_are_each_their_own() -> None:
    network = lively(small(shared=False, keep="streams", streams="spatial")).eval()
    clip = images(1, 1).expand(1, 3, 3, 67, 67)
    kept: list[torch.Tensor] = []
    network.vlan.register_forward_hook(lambda module, given, out: kept.append(out))
    network(clip)
    first, second, third = kept[0].chunk(3, dim=1)
    assert not torch.allclose(first, second)
    assert not torch.allclose(second, third)
    with pytest.raises(ValueError, match="shared streams"):
        network.encode_frame(clip[:, 0])


def test_non_trained_schema_trains_the_logistic_regression_alone() -> None:
    network = lively(small(aggregation="fixed")).train()
    frames, flows = images(), images()
    torch.testing.assert_close(network(frames, flows), network(frames, flows))  # no dropout left
    assert {name for name, p in network.named_parameters() if p.requires_grad} == {"logits.weight", "logits.bias"}
    spatial = network.encode_frame(frames.flatten(0, 1)).view(2, 3, -1)
    temporal = network.encode_flow(flows.flatten(0, 1)).view(2, 3, -1)
    torch.testing.assert_close(network(frames, flows), network.logits((spatial + temporal).sum(1)))


def test_trained_schema_drops_out_the_aggregated_layer() -> None:
    network = lively(small(dropout=0.5)).train()
    ring = torch.ones(1, 3, 64)
    seen: list[torch.Tensor] = []
    network.vlan.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network.head(ring, 3 * ring)
    spatial, temporal = seen[0].unbind(1)
    assert set(spatial.flatten().tolist()) == {0.0, 2.0}
    assert set(temporal.flatten().tolist()) == {0.0, 6.0}


def test_what_can_not_be_is_refused() -> None:
    for change in ({"streams": "audio"}, {"layer": "fc8"}, {"aggregation": "mean"}, {"keep": "all"}):
        with pytest.raises(ValueError, match="expected one of"):
            build(small(**change))
    for length in (1, 21):
        with pytest.raises(ValueError, match=f"2 to 20 frames, got {length}"):
            build(small(length=length))
    network = lively(small())
    with pytest.raises(ValueError, match="expected 3 images a segment for each modality, got none"):
        network(images())
    with pytest.raises(ValueError, match="got 4"):
        network(images(2, 4), images())
    with pytest.raises(ValueError, match="no temporal stream"):
        build(small(streams="spatial")).encode_flow(images()[:, 0])

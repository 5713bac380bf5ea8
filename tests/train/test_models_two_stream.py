"""Two-stream VGG16 + DBN + SVM: sizes, every row of Tables 1 and 2, the rings, the SVM."""

from __future__ import annotations

import pytest
import torch

from train.models.trunks import VGG16
from train.models.two_stream import Config, TwoStream, average_segments, build

WIDTH = 1 / 64  # fc7 and RBMs of 64, 32, 16; convolutions of 1 to 8 channels
VGG16_TO_FC7 = 14_714_688 + (25088 * 4096 + 4096) + (4096 * 4096 + 4096)
FC8 = 4096 * 6 + 6


def small(**changes: object) -> Config:
    return Config(**{"width": WIDTH, "frames": 3, **changes})  # type: ignore[arg-type]


def lively(config: Config, seed: int = 0) -> TwoStream:
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
    return torch.randn(segments, frames, 3, 48, 48, dtype=torch.float64)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("depth", "units"), [(1, [8192, 4096]), (2, [8192, 4096, 2048]), (3, [8192, 4096, 2048, 1024])]
)
def test_dbn_sizes_of_table_1(depth: int, units: list[int]) -> None:
    with torch.device("meta"):
        network = build(Config(depth=depth))
    assert network.dbn is not None
    dbn, classifiers = 0, 2 * (units[-1] * 6 + 6)  # the softmax layer, and the SVM
    for rbm, visible, hidden in zip(network.dbn.rbms, units, units[1:], strict=False):
        assert rbm.get_parameter("weight").shape == (hidden, visible)
        dbn += hidden * visible + hidden + visible
    assert len(network.dbn.rbms) == depth
    assert parameters(network) == 2 * VGG16_TO_FC7 + dbn + classifiers


def test_sizes_of_the_other_modes() -> None:
    with torch.device("meta"):
        assert parameters(build(Config(mode="spatial", classifier="softmax"))) == VGG16_TO_FC7 + FC8
        assert parameters(build(Config(mode="temporal"))) == VGG16_TO_FC7 + FC8 + FC8  # fc8, and the SVM
        assert parameters(build(Config(mode="score"))) == 2 * (VGG16_TO_FC7 + FC8)


def test_shapes_at_full_width() -> None:
    with torch.device("meta"):
        network = build(Config())
        clip = torch.zeros(2, 15, 3, 227, 227)
    assert network.encode_frame(clip[:, 0]).shape == (2, 4096)
    assert network.encode_flow(clip[:, 0]).shape == (2, 4096)
    features = network.features(clip, clip)
    assert features.shape == (2, 8192)
    assert network.describe(features).shape == (2, 1024)
    assert network(clip, clip).shape == (2, 6)


@pytest.mark.parametrize("classifier", ["svm", "softmax"])
@pytest.mark.parametrize("mode", ["spatial", "temporal", "score", "dbn"])
def test_every_mode_runs_both_ways_and_streams(mode: str, classifier: str) -> None:
    network = lively(small(mode=mode, classifier=classifier))
    frames = images() if mode != "temporal" else None
    flows = images() if mode != "spatial" else None
    loss = torch.nn.functional.cross_entropy(network(frames, flows), torch.tensor([0, 5]))
    torch.autograd.backward(loss)
    for stream in (network.spatial, network.temporal):
        if stream is not None:
            assert stream.get_parameter("features.0.weight").grad is not None
    network.eval()
    rings = [
        None if clip is None else torch.stack([encode(clip[:, i]) for i in range(3)], dim=1)
        for clip, encode in ((frames, network.encode_frame), (flows, network.encode_flow))
    ]
    torch.testing.assert_close(network.head(*rings), network(frames, flows))


def test_a_sliding_window_through_the_rings() -> None:
    network = lively(small()).eval()
    video, flow = images(1, 6), images(1, 6)
    spatial = [network.encode_frame(video[:, i]) for i in range(6)]
    temporal = [network.encode_flow(flow[:, i]) for i in range(6)]
    answers = []
    for start in range(4):
        window = slice(start, start + 3)
        answers.append(network.head(torch.stack(spatial[window], 1), torch.stack(temporal[window], 1)))
        torch.testing.assert_close(answers[-1], network(video[:, window], flow[:, window]))
    assert not torch.allclose(answers[0], answers[1])


def test_a_segment_is_the_mean_of_its_frames() -> None:
    network = lively(small(mode="spatial", classifier="softmax")).eval()
    clip = images()
    assert isinstance(network.spatial, VGG16)
    frame_by_frame = torch.stack([network.spatial(clip[:, i]) for i in range(3)]).mean(0)
    torch.testing.assert_close(network(clip), frame_by_frame)


def test_dbn_reads_spatial_then_temporal() -> None:
    network = lively(small()).eval()
    frames, flows = images(), images()
    features = network.features(frames, flows)
    torch.testing.assert_close(features[:, :64], network.encode_frame(frames.flatten(0, 1)).view(2, 3, -1).mean(1))
    torch.testing.assert_close(features[:, 64:], network.encode_flow(flows.flatten(0, 1)).view(2, 3, -1).mean(1))
    assert network.dbn is not None
    assert network.svm is not None
    torch.testing.assert_close(network(frames, flows), network.svm(network.dbn.hidden(features)))


def test_score_fusion_averages_probabilities() -> None:
    fused = build(small(mode="score")).double().eval()
    spatial = lively(small(mode="spatial", classifier="softmax"), 1).eval()
    temporal = lively(small(mode="temporal", classifier="softmax"), 2).eval()
    fused.take(spatial, temporal)
    frames, flows = images(), images()
    average = (spatial(frames).softmax(1) + temporal(None, flows).softmax(1)) / 2
    torch.testing.assert_close(fused(frames, flows).softmax(1), average)


def test_step_1_into_step_2() -> None:
    spatial, temporal = lively(small(mode="spatial"), 1), lively(small(mode="temporal"), 2)
    network = build(small()).double()
    network.take(spatial, temporal)
    image = images()[:, 0]
    for net in (network, spatial, temporal):
        net.eval()
    torch.testing.assert_close(network.encode_frame(image), spatial.encode_frame(image))
    torch.testing.assert_close(network.encode_flow(image), temporal.encode_flow(image))
    single = build(small(mode="temporal")).double().eval()
    single.take(spatial, temporal)
    torch.testing.assert_close(single.encode_flow(image), temporal.encode_flow(image))
    with pytest.raises(ValueError, match="no network with a temporal stream was given"):
        network.take(spatial)


def test_segments_are_averaged_by_video() -> None:
    described = torch.tensor([[1.0, 0.0], [4.0, 4.0], [3.0, 2.0], [2.0, 4.0]])
    numbers, features = average_segments(described, torch.tensor([7, 2, 7, 7]))
    assert numbers.tolist() == [2, 7]
    torch.testing.assert_close(features, torch.tensor([[4.0, 4.0], [2.0, 2.0]]))


@pytest.mark.parametrize("classes", [2, 6])
def test_the_svm_separates_what_can_be_separated(classes: int) -> None:
    network = lively(small(classes=classes))
    labels = torch.arange(classes).repeat(10)
    videos = 0.1 * torch.randn(10 * classes, 16, dtype=torch.float64)
    videos[torch.arange(10 * classes), labels] += 3
    network.fit_svm(videos, labels)
    assert network.svm is not None
    values = network.svm(videos)
    assert (values.argmax(1) == labels).all()
    # One against the rest with a margin: positive for a video's own class, negative for each other.
    own = torch.nn.functional.one_hot(labels, classes).bool()
    assert values[own].min() > 0 > values[~own].max()
    with pytest.raises(ValueError, match="expected videos of every class"):
        network.fit_svm(videos, torch.zeros_like(labels))


def test_unknown_values_and_missing_inputs_are_refused() -> None:
    for change in ({"mode": "late"}, {"classifier": "tree"}, {"depth": 4}):
        with pytest.raises(ValueError, match="expected one of"):
            build(small(**change))
    network = lively(small())
    with pytest.raises(ValueError, match="flow images missing"):
        network(images())
    with pytest.raises(ValueError, match="SVM missing"):
        build(small(mode="score")).fit_svm(torch.zeros(6, 16), torch.arange(6))

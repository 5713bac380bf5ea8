"""3DCNN-ConvLSTM: equations (1)-(6), the shapes of every stage, caching, and the AFEW form."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from train.models.conv_lstm import Config, ConvLSTM, build

SMALL = Config(filters=3, units=2, side=16)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_equations_1_to_6_gate_by_gate() -> None:
    torch.manual_seed(0)
    layer = ConvLSTM(5, 3).double()
    bias = layer.input_to_state.bias
    assert bias is not None
    torch.nn.init.normal_(bias)
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    # Four separate kernels and biases, each gate on its own, one step and one sample at a time.
    w_x = dict(zip("figo", torch.split(layer.input_to_state.weight, 3), strict=True))
    w_h = dict(zip("figo", torch.split(layer.state_to_state.weight, 3), strict=True))
    b = dict(zip("figo", torch.split(bias, 3), strict=True))
    expected = []
    for sample in x:
        c = h = torch.zeros(1, 3, 6, 7, dtype=torch.float64)
        for x_t in sample:

            def gate(name: str, x_t: Tensor = x_t, h: Tensor = h) -> Tensor:
                from_input = conv2d(x_t[None], w_x[name], padding=1)
                return from_input + conv2d(h, w_h[name], padding=1) + b[name].view(1, 3, 1, 1)

            f = 1 / (1 + torch.exp(-gate("f")))  # (1)
            i = 1 / (1 + torch.exp(-gate("i")))  # (2)
            g = torch.tanh(gate("g"))  # (3)
            c = c * f + g * i  # (4)
            o = 1 / (1 + torch.exp(-gate("o")))  # (5)
            h = torch.tanh(c) * o  # (6)
        expected.append(h[0])
    torch.testing.assert_close(layer(layer.gates(x)), torch.stack(expected))


def test_the_convolutions_against_a_sum_over_frames() -> None:
    """A 3-D convolution without padding in time is a sum of 2-D ones over its frames."""
    torch.manual_seed(0)
    network = build(SMALL).double()
    clip = torch.randn(1, 8, 1, 16, 16, dtype=torch.float64)
    steps = list(clip[0].unsqueeze(1))
    for index, name in enumerate(("convolutions.0", "convolutions.1", "convolutions.2")):
        weight, bias = (network.get_parameter(f"{name}.{part}") for part in ("weight", "bias"))
        older, newer = weight[:, :, 0], weight[:, :, 1]
        steps = [
            torch.relu(conv2d(x, older, padding=1) + conv2d(y, newer, bias, padding=1)) for x, y in pairwise(steps)
        ]
        if index != 1:
            steps = [max_pool2d(x, 2) for x in steps]
    to_state = network.recurrence.input_to_state
    gates = [conv2d(x, to_state.weight, to_state.bias, padding=1) for x in steps]
    torch.testing.assert_close(network.encode(clip), torch.stack(gates, dim=1))


def test_shapes_and_sizes_at_full_width() -> None:
    with torch.device("meta"):
        network, two_path = build(Config()), build(Config(two_path=True))
        clip = torch.zeros(2, 8, 1, 64, 64)
    assert [layer.weight.shape for layer in network.convolutions] == [
        (16, 1, 2, 3, 3),
        (32, 16, 2, 3, 3),
        (64, 32, 2, 3, 3),
    ]
    ring = network.encode(clip)
    assert ring.shape == (2, 5, 4 * 16, 16, 16)
    assert network.recurrence(ring).shape == (2, 16, 16, 16)
    assert network(clip).shape == (2, 7)
    convolutions = (1 * 18 * 16 + 16) + (16 * 18 * 32 + 32) + (32 * 18 * 64 + 64)
    recurrence = (64 * 9 * 64 + 64) + 16 * 9 * 64
    classifier = 16 * 16 * 16 * 7 + 7
    assert parameters(network) == convolutions + recurrence + classifier == 121_303
    # Batch normalisation takes the bias's place: a weight and a bias of its own.
    face = (9 * 32 + 64) + (32 * 9 * 32 + 64) + (32 * 9 * 64 + 128) + (64 * 9 * 64 + 128) + (64 * 7 + 7)
    assert parameters(two_path) == 121_303 + recurrence + face
    assert two_path.encode(clip).shape == (2, 5, 2 * 4 * 16, 16, 16)


def test_the_forget_gate_starts_open() -> None:
    bias = ConvLSTM(3, 2).input_to_state.bias
    assert bias is not None
    assert bias[:2].tolist() == [1.0, 1.0]
    assert 1.0 not in bias[2:].tolist()


@pytest.mark.parametrize(("temporal", "receptive", "steps"), [(1, 1, 8), (2, 4, 5), (3, 7, 2)])
def test_how_the_window_shrinks(temporal: int, receptive: int, steps: int) -> None:
    network = build(Config(temporal=temporal, filters=2, units=2, side=8))
    assert (network.receptive, network.steps) == (receptive, steps)
    assert network.encode(torch.zeros(1, 8, 1, 8, 8)).shape[1] == steps


@pytest.mark.parametrize("two_path", [False, True])
@pytest.mark.parametrize("temporal", [1, 2, 3])
def test_streaming_equals_windows(two_path: bool, temporal: int) -> None:
    """A video of 12 frames, one at a time through a ring, answers as its five windows of 8 do."""
    torch.manual_seed(0)
    network = build(Config(temporal=temporal, filters=3, units=2, side=16, two_path=two_path)).eval()
    video = torch.randn(1, 12, 1, 16, 16)
    ring: list[Tensor] = []
    answers = []
    for newest in range(12):
        if newest + 1 < network.receptive:
            continue
        (entry,) = network.encode(video[:, newest + 1 - network.receptive : newest + 1]).unbind(1)
        ring = [*ring, entry][-network.steps :]
        if newest >= 7:
            answers.append(network.head(torch.stack(ring, dim=1)))
    windows = [network(video[:, start : start + 8]) for start in range(5)]
    torch.testing.assert_close(torch.cat(answers), torch.cat(windows), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(windows[0], windows[1])


def test_the_order_of_frames_matters() -> None:
    torch.manual_seed(0)
    network = build(Config(filters=4, units=4, side=16))
    clip = torch.randn(1, 8, 1, 16, 16)
    assert not torch.allclose(network(clip), network(clip.flip(1)))


@pytest.mark.parametrize("two_path", [False, True])
def test_every_trainable_parameter_gets_a_gradient(two_path: bool) -> None:
    torch.manual_seed(0)
    network = build(Config(filters=3, units=2, side=16, two_path=two_path, freeze_face=False))
    loss = torch.nn.functional.cross_entropy(network(torch.randn(4, 8, 1, 16, 16)), torch.arange(4))
    torch.autograd.backward(loss)
    silent = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == ({"face.logits.weight", "face.logits.bias"} if two_path else set())


def test_the_two_paths_are_added_before_the_classifier() -> None:
    torch.manual_seed(0)
    network = build(Config(filters=3, units=2, side=16, two_path=True)).eval()
    clip = torch.randn(2, 8, 1, 16, 16)
    first, second = network.encode(clip).chunk(2, dim=2)
    maps = torch.stack([network.face.maps(clip[:, t]) for t in range(3, 8)], dim=1)
    torch.testing.assert_close(second, network.face_recurrence.gates(maps))
    added = network.recurrence(first) + network.face_recurrence(second)
    torch.testing.assert_close(network(clip), network.logits(added.flatten(1)))


def test_a_frozen_face_network_keeps_its_weights_and_statistics() -> None:
    network = build(Config(filters=3, units=2, side=16, two_path=True)).train()
    before = {name: tensor.clone() for name, tensor in network.face.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad])
    network(torch.randn(2, 8, 1, 16, 16)).sum().backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.face.state_dict().items())
    assert network.face(torch.randn(2, 1, 16, 16)).shape == (2, 7)


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="expected frames >= 10"):
        build(Config(temporal=4))
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        build(Config(side=30))

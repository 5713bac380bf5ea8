"""DAM-CNN: SERD (1)-(4), MPVS-Net (6)-(11), Table 1's sizes, and a network without decoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edge.bundle import Graph, Manifest, TensorSpec, contradiction
from train.models.dam_cnn import (
    DAMCNN,
    SERD,
    Config,
    MPVSNet,
    build,
    draw_targets,
    inputs,
    reconstruction_loss,
    serd_regulariser,
)

WIDTH = 1 / 64
CONVOLUTIONS, ENCODER = 14_714_688, 25088 * 4096 + 4096
DECODER, FC1 = 4096 * 25088 + 25088, 4096 * 4096 + 4096


def small(**changes: object) -> Config:
    return Config(**{"width": WIDTH, "decoders": 2, **changes})  # type: ignore[arg-type]


def lively(config: Config, seed: int = 0) -> DAMCNN:
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


def face(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, dtype=torch.float64)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_attention_equations_1_and_2() -> None:
    torch.manual_seed(0)
    serd = SERD(4).double()
    maps = torch.rand(2, 4, 3, 3, dtype=torch.float64)
    w, b = (serd.get_parameter(f"attention.{part}").detach().numpy() for part in ("weight", "bias"))
    h = maps.numpy()
    mask = np.tanh(np.einsum("c,nchw->nhw", w.reshape(4), h) + b)
    np.testing.assert_allclose(serd.mask(maps).detach().numpy()[:, 0], mask)
    np.testing.assert_allclose(serd(maps).detach().numpy(), np.maximum(mask[:, None] * h, 0))


def test_regulariser_equation_3_and_its_switches() -> None:
    mask = torch.tensor([[[[0.5, -0.5], [0.0, 1.0]]], [[[0.1, 0.2], [-0.3, 0.4]]]])
    sparse = [(0.5 + 0.5 + 0 + 1) ** 2, (0.1 + 0.2 + 0.3 + 0.4) ** 2]
    decided = [0.75**2 + 0.75**2 + 1 + 0, 0.99**2 + 0.96**2 + 0.91**2 + 0.84**2]
    for gamma1, gamma2 in ((1e-3, 1e-4), (1e-3, 0.0), (0.0, 1e-4), (0.0, 0.0)):
        expected = sum(gamma1 * s + gamma2 * d for s, d in zip(sparse, decided, strict=True)) / 2
        assert serd_regulariser(mask, gamma1, gamma2).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("gamma1", "gamma2"), [(1e-3, 1e-4), (1e-3, 0.0), (0.0, 1e-4)])
def test_step_one_loss_equation_4(gamma1: float, gamma2: float) -> None:
    network = lively(small(variant="vgg_serd", gamma1=gamma1, gamma2=gamma2)).eval()
    pictures, labels = face(), torch.tensor([1, 4])
    entropy = -network(pictures).log_softmax(1)[[0, 1], labels].mean()
    m = network.attention(pictures).detach()
    assert m.min() < 0 < m.max()
    parts = [
        gamma1 * float(each.abs().sum()) ** 2 + gamma2 * float(torch.linalg.norm(1 - each[0] * each[0]) ** 2)
        for each in m
    ]
    assert network.step_one_loss(pictures, labels).item() == pytest.approx(entropy.item() + sum(parts) / 2, rel=1e-5)


def test_step_one_loss_of_plain_vgg_face_is_the_cross_entropy() -> None:
    network = lively(small(variant="vgg_face")).eval()
    pictures, labels = face(), torch.tensor([1, 4])
    torch.testing.assert_close(
        network.step_one_loss(pictures, labels), -network(pictures).log_softmax(1)[[0, 1], labels].mean()
    )


def test_autoencoder_equations_6_to_9() -> None:
    torch.manual_seed(0)
    network = MPVSNet(6, 4, classes=3, decoders=2, dropout=0.5).double().eval()
    s, targets = torch.rand(5, 6, dtype=torch.float64), torch.rand(5, 2, 6, dtype=torch.float64)

    def layer(linear: torch.nn.Module, x: np.ndarray) -> np.ndarray:
        weight, bias = (linear.get_parameter(part).detach().numpy() for part in ("weight", "bias"))
        return np.asarray(1 / (1 + np.exp(-(weight @ x + bias))))

    j = [0.0, 0.0]
    for i in range(5):
        h = layer(network.encoder, s[i].numpy())  # (6)
        np.testing.assert_allclose(network.encode(s)[i].detach().numpy(), h)
        for path in range(2):
            s_hat = layer(network.decoders[path], h)  # (7)
            j[path] += float(((s_hat - targets[i, path].numpy()) ** 2).sum()) / 5  # (8)
    assert reconstruction_loss(network.decode(network.encode(s)), targets).item() == pytest.approx(sum(j))  # (9)


def test_step_two_loss_and_gradients_equations_10_and_11() -> None:
    network = lively(small(classification=20.0, dropout=0.0)).double()
    assert network.mpvs is not None
    mpvs = network.mpvs
    s = torch.rand(3, mpvs.encoder.in_features, dtype=torch.float64)
    targets, labels = torch.rand(3, 2, s.shape[1], dtype=torch.float64), torch.tensor([0, 3, 6])

    j_all = reconstruction_loss(mpvs.decode(mpvs.encode(s)), targets)
    entropy = -mpvs(s).log_softmax(1)[[0, 1, 2], labels].mean()
    autoencoder = [*mpvs.encoder.parameters(), *mpvs.decoders.parameters()]
    connected = list(mpvs.classifier.parameters())
    by_11 = torch.autograd.grad(j_all + 20 * entropy, autoencoder, retain_graph=True)
    by_10 = torch.autograd.grad(entropy, connected)

    loss = network.step_two_loss(s, targets, labels)
    assert loss.item() == pytest.approx((j_all + 20 * entropy).item())
    got = torch.autograd.grad(loss, [*autoencoder, *connected])
    for mine, expected in zip(got, (*by_11, *by_10), strict=True):
        torch.testing.assert_close(mine, expected)


def test_table_1_shapes_and_sizes() -> None:
    with torch.device("meta"):
        network = build(Config())
        picture = torch.zeros(2, 3, 224, 224)
    assert network.trunk.maps(picture).shape == (2, 512, 7, 7)
    assert network.attention(picture).shape == (2, 1, 7, 7)
    assert network.heat_map(picture).shape == (2, 1, 224, 224)
    assert network.salient(picture).shape == (2, 25088)
    assert network.mpvs is not None
    assert network.mpvs.encode(network.salient(picture)).shape == (2, 4096)
    assert network.mpvs.decode(torch.zeros(2, 4096, device="meta")).shape == (2, 5, 25088)
    assert network(picture).shape == (2, 7)
    serd, classifier = 512 + 1, FC1 + 4096 * 7 + 7
    leaves = CONVOLUTIONS + serd + ENCODER + classifier
    assert parameters(network) == leaves + 5 * DECODER
    assert parameters(network.inference()) == leaves == 134_289_736
    with torch.device("meta"):
        for paths in (2, 3, 4):
            assert parameters(build(Config(decoders=paths))) == leaves + paths * DECODER
        # VGG-Face's own fully connected layers have the encoder's and FC-Layer's sizes.
        assert parameters(build(Config(variant="vgg_serd"))) == leaves
        assert parameters(build(Config(variant="vgg_face"))) == leaves - serd


@pytest.mark.parametrize("variant", ["vgg_face", "vgg_serd"])
def test_step_one_reaches_every_parameter(variant: str) -> None:
    network = lively(small(variant=variant, dropout=0.0))
    torch.autograd.backward(network.step_one_loss(face(), torch.tensor([0, 1])))
    assert all(p.grad is not None for p in network.parameters())
    assert network.trunk.get_parameter("features.0.weight").grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("decoders", [2, 3, 4, 5])
def test_step_two_trains_mpvs_net_alone(decoders: int) -> None:
    network = lively(small(decoders=decoders))
    with torch.no_grad():
        salient = network.salient(face())
    targets = salient[torch.zeros(2, decoders, dtype=torch.int64)]
    torch.autograd.backward(network.step_two_loss(salient, targets, torch.tensor([0, 1])))
    trained = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {"mpvs"}
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_step_one_into_step_two() -> None:
    first, second = lively(small(variant="vgg_serd")).eval(), build(small(salient_scale=4.0)).double().eval()
    second.take(first)
    pictures = face()
    assert first.salient(pictures).any()
    torch.testing.assert_close(second.attention(pictures), first.attention(pictures))
    torch.testing.assert_close(second.salient(pictures) * 4, first.salient(pictures))


def test_inference_drops_the_decoders_and_answers_the_same() -> None:
    network = lively(small()).eval()
    lean = network.inference()
    assert isinstance(lean, DAMCNN)
    assert not any("decoders" in name for name in lean.state_dict())
    pictures = face()
    assert not torch.allclose(network(pictures)[0], network(pictures)[1])
    torch.testing.assert_close(lean(pictures), network(pictures))
    torch.testing.assert_close(lean.attention(pictures), network.attention(pictures))
    assert lean.trunk.get_parameter("features.0.weight") is network.trunk.get_parameter("features.0.weight")
    assert replace(lean.config, decoders=2) == network.config


def test_heat_map_is_the_mask_at_the_pictures_size() -> None:
    network = lively(small(variant="vgg_serd"))
    pictures = face(1)
    mask, heat = network.attention(pictures), network.heat_map(pictures)
    # 32 pixels a cell; between two cells' centres the interpolation is a straight line.
    torch.testing.assert_close(heat[0, 0, 0, 0], mask[0, 0, 0, 0])
    left, right = mask[0, 0, 0, 2], mask[0, 0, 0, 3]
    middle = (heat[0, 0, 0, 95] + heat[0, 0, 0, 96]) / 2
    torch.testing.assert_close(middle, (left + right) / 2)


def test_targets_share_the_label_and_the_variation() -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 2])
    gender = torch.tensor([0, 0, 1, 1, 1, 0, 1])
    batch = torch.tensor([0, 1, 5, 3])
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        free = draw_targets(labels, batch, 3, generator)
        assert free.shape == (4, 3)
        assert (labels[free] == labels[batch].unsqueeze(1)).all()
        seen |= set(free[0].tolist())
        bound = draw_targets(labels, batch, 2, generator, gender)
        assert (labels[bound] == labels[batch].unsqueeze(1)).all()
        assert (gender[bound] == torch.tensor([0, 1])).all()
    assert seen == {0, 2, 4}
    with pytest.raises(ValueError, match="class 0 has no sample of variation 2"):
        draw_targets(labels, batch, 3, generator, gender)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown DAM-CNN variant 'vgg'"):
        build(small(variant="vgg"))
    with pytest.raises(ValueError, match="salient_scale > 0"):
        build(small(salient_scale=0.0))
    with pytest.raises(ValueError, match="has no attention"):
        build(small(variant="vgg_face")).attention(face(1))
    with pytest.raises(ValueError, match="has no MPVS-Net"):
        build(small(variant="vgg_serd")).step_two_loss(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1))


def test_input_is_one_that_a_bundle_can_state() -> None:
    manifest = Manifest(
        name="x",
        family="dam_cnn",
        labels=("a", "b"),
        inputs=inputs(Config()),
        graphs={
            "window": Graph(
                (TensorSpec("face", (1, 3, 224, 224)),), (TensorSpec("logits", (1, 2)),), {"fp32": "x.onnx"}
            )
        },
        temperature=1.0,
        abstain_below=0.0,
        tolerances={"tensor": 0.1, "fp32": 0.1},
        data={},
        licence="",
        metrics={},
        files={"x.onnx": "", "golden.npz": ""},
    )
    assert contradiction(manifest) is None

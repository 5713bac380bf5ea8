"""The published trunks: layer shapes, sizes, names, and loading weights into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edge.errors import EdgeError
from train.models.trunks import VGG16, AlexNet, Trunk, TrunkError, load_trunk, scaled

SMALL = 1 / 32


def shapes(trunk: Trunk, side: int) -> list[tuple[int, ...]]:
    """(channels, H, W) after every pool."""
    seen, x = [], torch.zeros(1, 3, side, side, device="meta")
    for layer in trunk.features:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            seen.append(tuple(x.shape[1:]))
    return seen


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("side", [224, 227])
def test_vgg16_shapes_after_every_pool(side: int) -> None:
    with torch.device("meta"):
        trunk = VGG16()
    sides = [side // 2**n for n in range(1, 6)]
    assert shapes(trunk, side) == [(c, s, s) for c, s in zip((64, 128, 256, 512, 512), sides, strict=True)]
    assert sides[-1] == 7


def test_alexnet_shapes_after_every_pool() -> None:
    with torch.device("meta"):
        trunk = AlexNet()
    assert shapes(trunk, 227) == [(64, 27, 27), (192, 13, 13), (256, 6, 6)]
    assert trunk.features[0](torch.zeros(1, 3, 227, 227, device="meta")).shape == (1, 64, 56, 56)


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert parameters(VGG16()) == 138_357_544
        assert parameters(VGG16(2622)) == 145_002_878  # VGG-Face
        assert parameters(AlexNet()) == 61_100_840
        assert parameters(VGG16(until="pool5")) == 14_714_688
        assert parameters(VGG16(until="fc7")) == 138_357_544 - (4096 * 1000 + 1000)


def test_names_are_torchvisions() -> None:
    with torch.device("meta"):
        vgg, alex = VGG16().state_dict(), AlexNet().state_dict()
    convolutions = {int(name.split(".")[1]) for name in vgg if name.startswith("features")}
    assert convolutions == {0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28}
    assert {name for name in vgg if name.startswith("classifier")} == {
        f"classifier.{n}.{part}" for n in (0, 3, 6) for part in ("weight", "bias")
    }
    assert {name for name in alex if name.endswith("weight")} == {
        *(f"features.{n}.weight" for n in (0, 3, 6, 8, 10)),
        *(f"classifier.{n}.weight" for n in (1, 4, 6)),
    }
    assert vgg["classifier.0.weight"].shape == (4096, 25088)
    assert alex["classifier.1.weight"].shape == (4096, 9216)


@pytest.mark.parametrize("kind", [VGG16, AlexNet])
def test_cuts_end_after_the_relu(kind: type[VGG16] | type[AlexNet]) -> None:
    whole = kind(5, width=SMALL).eval()
    image = torch.randn(2, 3, 64, 64)
    for until in ("fc6", "fc7"):
        cut = kind(until=until, width=SMALL).eval()
        cut.load_state_dict({name: t for name, t in whole.state_dict().items() if name in cut.state_dict()})
        described = cut.describe(image)
        assert described.shape == (2, 128)
        assert described.min() == 0 < described.max()
        torch.testing.assert_close(cut(image), described)
        if until == "fc7":
            torch.testing.assert_close(whole.describe(image), described)
            torch.testing.assert_close(whole.logits(described), whole(image))
    with pytest.raises(ValueError, match="unknown cut 'fc9'"):
        kind(until="fc9")


def test_fc6_is_not_fc7() -> None:
    torch.manual_seed(0)
    whole = VGG16(5, width=SMALL).eval()
    image = torch.randn(1, 3, 32, 32)
    flat = whole.avgpool(whole.features(image)).flatten(1)
    fc6 = torch.relu(whole.classifier[:1](flat))
    cut = VGG16(until="fc6", width=SMALL).eval()
    cut.load_state_dict({name: t for name, t in whole.state_dict().items() if name in cut.state_dict()})
    torch.testing.assert_close(cut.describe(image), fc6)
    torch.testing.assert_close(whole.describe(image), torch.relu(whole.classifier[3:4](fc6)))


def test_width_never_reaches_zero() -> None:
    assert [scaled(64, width) for width in (1.0, 0.25, 0.001)] == [64, 16, 1]


def save(tmp_path: Path, state: object) -> Path:
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    return file


def test_loading_takes_all_but_a_classifier_of_other_classes(tmp_path: Path) -> None:
    source, target = VGG16(9, width=SMALL), VGG16(6, width=SMALL)
    before = target.get_parameter("classifier.6.weight").clone()
    assert load_trunk(target, save(tmp_path, source.state_dict())) == ("classifier.6.weight", "classifier.6.bias")
    assert torch.equal(target.get_parameter("classifier.6.weight"), before)
    for name, tensor in target.state_dict().items():
        if not name.startswith("classifier.6"):
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_loading_takes_the_classifier_of_the_same_classes(tmp_path: Path) -> None:
    source, target = AlexNet(6, width=SMALL), AlexNet(6, width=SMALL)
    assert load_trunk(target, save(tmp_path, source.state_dict())) == ()
    assert torch.equal(target.state_dict()["classifier.6.weight"], source.state_dict()["classifier.6.weight"])


@pytest.mark.parametrize("until", ["pool5", "fc6", "fc7"])
def test_loading_into_a_cut_trunk(tmp_path: Path, until: str) -> None:
    source, target = AlexNet(9, width=SMALL), AlexNet(until=until, width=SMALL)
    assert load_trunk(target, save(tmp_path, source.state_dict())) == ()
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


@pytest.mark.parametrize("convolution", ["conv{}_{}", "conv_{}_{}"])
def test_loading_vgg_face_by_its_own_names(tmp_path: Path, convolution: str) -> None:
    layers = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (5, 3)]
    names = [convolution.format(*layer) for layer in layers] + ["fc6", "fc7", "fc8"]
    source, target = VGG16(26, width=SMALL), VGG16(7, width=SMALL)
    theirs: dict[str, Tensor] = {}
    for name, (weight, bias) in zip(names, zip(*[iter(source.state_dict().values())] * 2, strict=True), strict=True):
        theirs |= {f"{name}.weight": weight, f"{name}.bias": bias}
    assert load_trunk(target, save(tmp_path, theirs)) == ("classifier.6.weight", "classifier.6.bias")
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(target.eval().describe(image), source.eval().describe(image))


def test_another_shape_names_the_tensor_and_both_shapes(tmp_path: Path) -> None:
    state = VGG16(6, width=SMALL).state_dict()
    state["features.5.weight"] = torch.zeros(8, 2, 3, 3)
    target = VGG16(6, width=SMALL)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    file = save(tmp_path, state)
    with pytest.raises(TrunkError) as caught:
        load_trunk(target, file)
    assert isinstance(caught.value, EdgeError)
    assert str(caught.value) == (
        f"{file}: features.5.weight has shape (8, 2, 3, 3), expected (4, 2, 3, 3); "
        "give a file of this network, or build it at width 1.0"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_what_is_no_trunk_is_refused(tmp_path: Path) -> None:
    target = VGG16(6, width=SMALL)
    state = target.state_dict()
    with pytest.raises(TrunkError, match=r"no such file; expected .*; check the path"):
        load_trunk(target, tmp_path / "nowhere.pth")
    with pytest.raises(TrunkError, match="not a state dict"):
        load_trunk(target, save(tmp_path, [1, 2]))
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"not weights at all")
    with pytest.raises(TrunkError, match="can't be read") as caught:
        load_trunk(target, garbage)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrunkError, match=r"no tensor features\.0\.weight"):
        load_trunk(target, save(tmp_path, {k: v for k, v in state.items() if k != "features.0.weight"}))
    with pytest.raises(TrunkError, match=r"features\.99\.weight belongs to no layer"):
        load_trunk(target, save(tmp_path, state | {"features.99.weight": torch.zeros(1)}))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    with pytest.raises(TrunkError, match="can't be read"):
        load_trunk(VGG16(6, width=SMALL), save(tmp_path, {"features.0.weight": Payload()}))
    assert not (tmp_path / "ran").exists()

"""RBM and DBN: contrastive divergence against numpy, the reconstruction loss, and that both learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from train.models.dbn import DBN, RBM

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def random_rbm(visible: int, hidden: int) -> RBM:
    rbm = RBM(visible, hidden).double()
    for parameter in rbm.parameters():
        torch.nn.init.normal_(parameter)
    return rbm


def test_one_step_of_contrastive_divergence_equation_4() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    rbm = random_rbm(5, 3)
    w, c, b = (p.detach().numpy().copy() for p in (rbm.weight, rbm.hidden_bias, rbm.visible_bias))
    v, draws, rate = rng.random((4, 5)), rng.random((4, 3)), 0.25
    # Unit by unit and sample by sample, as the expectations are written.
    dw, dc, db = np.zeros((3, 5)), np.zeros(3), np.zeros(5)
    error = 0.0
    for n in range(4):
        h_data = np.array([sigmoid(c[j] + sum(w[j, i] * v[n, i] for i in range(5))) for j in range(3)])
        state = np.array([1.0 if draws[n, j] < h_data[j] else 0.0 for j in range(3)])
        v_model = np.array([sigmoid(b[i] + sum(w[j, i] * state[j] for j in range(3))) for i in range(5)])
        h_model = np.array([sigmoid(c[j] + sum(w[j, i] * v_model[i] for i in range(5))) for j in range(3)])
        for j in range(3):
            for i in range(5):
                dw[j, i] += (v[n, i] * h_data[j] - v_model[i] * h_model[j]) / 4
        dc += (h_data - h_model) / 4
        db += (v[n] - v_model) / 4
        error += float(((v[n] - v_model) ** 2).sum()) / 4
    assert rbm.update(torch.from_numpy(v), rate, torch.from_numpy(draws)) == pytest.approx(error)
    np.testing.assert_allclose(rbm.weight.detach().numpy(), w + rate * dw)
    np.testing.assert_allclose(rbm.hidden_bias.detach().numpy(), c + rate * dc)
    np.testing.assert_allclose(rbm.visible_bias.detach().numpy(), b + rate * db)


def test_an_rbm_learns_two_patterns() -> None:
    torch.manual_seed(0)
    rbm = RBM(8, 4)
    patterns = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]]).repeat(8, 1)
    first = rbm.update(patterns, 0.5)
    for _ in range(300):
        last = rbm.update(patterns, 0.5)
    assert first > 1.9  # chance: eight units half wrong
    assert last < 0.2


def test_reconstruction_loss_equation_5() -> None:
    torch.manual_seed(0)
    dbn = DBN((6, 4, 3), classes=2).double()
    for parameter in dbn.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.rand(5, 6, dtype=torch.float64) * 3
    dbn.calibrate(x)
    scaled = x.numpy() / x.numpy().max(0)
    (w1, c1, b1), (w2, c2, b2) = ([p.detach().numpy() for p in rbm.parameters()] for rbm in dbn.rbms)
    top = sigmoid(sigmoid(scaled @ w1.T + c1) @ w2.T + c2)
    back = sigmoid(sigmoid(top @ w2 + b2) @ w1 + b1)
    assert dbn.reconstruction_loss(x).item() == pytest.approx(float(((scaled - back) ** 2).sum(1).mean()))
    np.testing.assert_allclose(dbn.hidden(x).detach().numpy(), top)
    # Supervision adds the weighted cross-entropy of the softmax layer, and nothing at 0.
    labels = torch.tensor([0, 1, 1, 0, 1])
    logits = top @ dbn.logits.weight.detach().numpy().T + dbn.logits.bias.detach().numpy()
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -np.log(probability[np.arange(5), labels.numpy()]).mean()
    plain = dbn.reconstruction_loss(x).item()
    assert dbn.fine_tuning_loss(x, labels, 0.0).item() == pytest.approx(plain)
    assert dbn.fine_tuning_loss(x, labels, 2.5).item() == pytest.approx(plain + 2.5 * entropy)


def test_calibration_brings_training_features_into_0_to_1() -> None:
    dbn = DBN((3, 2), classes=2)
    features = torch.tensor([[0.0, 2.0, 5.0], [0.0, 4.0, 1.0]])
    dbn.calibrate(features)
    torch.testing.assert_close(dbn.scale(features), torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 0.2]]))
    assert dbn.scale(features * 10).max() == 1
    assert "ceiling" in dbn.state_dict()


def test_pretraining_is_greedy() -> None:
    """A step on one layer changes that layer alone, and learns from what the layers below make of the input."""
    torch.manual_seed(0)
    dbn = DBN((6, 4, 3), classes=2)
    features = torch.rand(5, 6)
    below = dbn.hidden(features, 1)
    alone = RBM(4, 3)
    alone.load_state_dict(dbn.rbms[1].state_dict())
    before = {name: tensor.clone() for name, tensor in dbn.state_dict().items()}
    draws = torch.rand(5, 3)
    assert dbn.pretrain(1, features, 0.5, draws) == pytest.approx(alone.update(below, 0.5, draws))
    changed = {name for name, tensor in dbn.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"rbms.1.{name}" for name in ("weight", "hidden_bias", "visible_bias")}
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(dbn.rbms[1].state_dict()[name], tensor)


def test_fine_tuning_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    dbn = DBN((6, 4, 3), classes=2)
    torch.autograd.backward(dbn.fine_tuning_loss(torch.rand(4, 6), torch.tensor([0, 1, 0, 1])))
    assert all(p.grad is not None and p.grad.any() for p in dbn.parameters())

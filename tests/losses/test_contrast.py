import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from reference.contrasts import naive_contrast

from clipib.losses import CONTRASTS
from clipib.losses.contrast import DECOUPLED, SIGMOID, SOFTMAX
from clipib.registry import resolve


def unit(n, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1)


@pytest.mark.parametrize("name", CONTRASTS)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("n", [2, 7, 31])
def test_value_and_gradient_equal_loops(name, n, scale, grouped):
    generator = torch.Generator().manual_seed(n)
    logits = (scale * torch.randn(n, n, generator=generator)).requires_grad_()
    groups = torch.arange(n) // 2 * 2 % max(2, n - 1) if grouped and n > 2 else None
    loss = resolve("contrast", CONTRASTS, name)(logits, groups)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = naive_contrast(name, logits, groups)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-6, abs=1e-5)  # float32 sums of 100s
    assert torch.allclose(gradient, expected_gradient, atol=2e-6)


def test_gradcheck():
    logits = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    groups = torch.tensor([0, 1, 1, 2, 0])
    for contrast in (SOFTMAX, SIGMOID, DECOUPLED):
        assert torch.autograd.gradcheck(lambda x, c=contrast: c(x, groups), logits)


def test_softmax_equals_open_clip():
    u, v = unit(33), unit(33, seed=1)
    expected = ClipLoss()(u, v, torch.tensor(14.0))
    assert float(SOFTMAX(14.0 * u @ v.T)) == pytest.approx(float(expected), rel=1e-6)


def test_sigmoid_equals_open_clip():
    u, v = unit(33), unit(33, seed=1)
    expected = SigLipLoss()(u, v, torch.tensor(14.0), torch.tensor(-10.0))
    assert float(SIGMOID(14.0 * u @ v.T - 10)) == pytest.approx(float(expected), rel=1e-6)


def test_equal_logits_give_log_n():
    assert float(SOFTMAX(torch.full((8, 8), 3.0))) == pytest.approx(torch.tensor(8.0).log())
    assert float(DECOUPLED(torch.full((8, 8), 3.0))) == pytest.approx(torch.tensor(7.0).log())


def test_one_group_each_is_identity():
    logits = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))
    for contrast in (SOFTMAX, SIGMOID, DECOUPLED):
        assert float(contrast(logits, torch.arange(9))) == pytest.approx(float(contrast(logits)), rel=1e-6)


def test_logits_must_be_square():
    with pytest.raises(ValueError, match="expected logits"):
        SOFTMAX(torch.zeros(2, 3))

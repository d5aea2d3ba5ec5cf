import pytest
import torch
from open_clip.loss import ClipLoss
from reference.losses import naive_softmax_contrast

from clipib.losses.contrast import softmax_contrast


@pytest.mark.parametrize("n", [1, 7, 63])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_value_and_gradient_equal_loops(n, scale):
    logits = (scale * torch.randn(n, n, generator=torch.Generator().manual_seed(n))).requires_grad_()
    loss = softmax_contrast(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = naive_softmax_contrast(logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-6, abs=1e-6)  # float32 log-sum-exp
    assert torch.allclose(gradient, expected_gradient, atol=1e-7)


def test_equals_open_clip():
    u, v = (torch.nn.functional.normalize(torch.randn(33, 16), dim=-1) for _ in range(2))
    expected = ClipLoss()(u, v, torch.tensor(14.0))
    assert float(softmax_contrast(14.0 * u @ v.T)) == pytest.approx(float(expected), rel=1e-6)


def test_equal_logits_give_log_n():
    assert float(softmax_contrast(torch.full((8, 8), 3.0))) == pytest.approx(torch.tensor(8.0).log())


def test_logits_must_be_square():
    with pytest.raises(ValueError, match="expected logits"):
        softmax_contrast(torch.zeros(2, 3))

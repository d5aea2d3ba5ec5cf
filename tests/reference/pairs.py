"""Batches of pairs that the tests of the penalties share."""

import torch

from clipib.losses.terms import Paired


def unit_pairs(n=7, width=5, *, hidden=(6, 4), seed=0, dtype=torch.float32):
    """Unit-norm embeddings that are related but not equal, with features before the projection."""
    generator = torch.Generator().manual_seed(100 * seed + n)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    image = draw(n, width)
    text = image + 0.5 * draw(n, width)
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (image, text)]
    return Paired(*unit, draw(n, hidden[0]), draw(n, hidden[1]))


def with_gradient(paired):
    return paired._replace(image=paired.image.requires_grad_(), text=paired.text.requires_grad_())


def assert_same_values_and_gradients(found, expected, paired, *, rel=1e-5):
    """float32 against float64: a few roundings of 6e-8 on sums of a few hundred terms."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=rel, atol=rel)
    for x in (paired.image, paired.text):
        a = torch.autograd.grad(found, x, retain_graph=True)[0].double()
        b = torch.autograd.grad(expected, x, retain_graph=True)[0].double()
        torch.testing.assert_close(a, b, rtol=rel, atol=rel * float(b.abs().max()))

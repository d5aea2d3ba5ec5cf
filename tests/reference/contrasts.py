"""Contrasts and similarities by explicit loops in float64."""

import math

import torch


def naive_contrast(name, logits, groups=None):
    """The loss of a matrix of logits, pair by pair."""
    s = logits.double()
    n = len(s)
    groups = list(range(n)) if groups is None else groups.tolist()
    total = s.new_zeros(())
    for i in range(n):
        own = [j for j in range(n) if groups[j] == groups[i]]
        if name == "sigmoid":
            for j in range(n):
                y = 1 if j in own else -1
                total = total + torch.log1p(torch.exp(-y * s[i, j]))
            continue
        for line in (s[i], s[:, i]):
            others = [j for j in range(n) if name == "softmax" or j not in own]
            denominator = torch.log(sum(torch.exp(line[j] - line.detach().max()) for j in others)) + line.detach().max()
            total = total + (denominator - sum(line[j] for j in own) / len(own)) / 2
    return total / n


def naive_kme(u, w, v, a, inv_sigma2):
    """log of the double sum over points, from the distances, for one image and one text."""
    total = u.new_zeros(())
    for i in range(len(u)):
        for j in range(len(v)):
            total = total + w[i] * a[j] * torch.exp(-((u[i] - v[j]) ** 2).sum() * inv_sigma2 / 2)
    return torch.log(total)


def naive_wpse(u, w, v, a, bandwidth):
    """The double sum over points of the exact kernels, for one image and one text."""
    total = u.new_zeros(())
    for i in range(len(u)):
        for j in range(len(v)):
            gaussian = torch.exp(-((u[i] - v[j]) ** 2).sum() / (2 * bandwidth**2))
            total = total + w[i] * a[j] * (2 / 3 * (u[i] @ v[j]) + 1 / 3 * gaussian)
    return total


def random_points(n, m, width, *, seed=0, signed=False, dtype=torch.float64):
    """(n, m, width) unit points and (n, m) weights."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(n, m, width, generator=generator, dtype=torch.float64), dim=-1)
    weights = torch.softmax(torch.randn(n, m, generator=generator, dtype=torch.float64), dim=-1)
    if signed:
        weights = weights * torch.where(torch.rand(n, m, generator=generator) < 0.3, -1.0, 1.0)
    assert math.isclose(float(points[0, 0].norm()), 1, rel_tol=1e-9)
    return points.to(dtype), weights.to(dtype)

"""Losses by explicit loops over pairs in float64."""

import torch


def naive_softmax_contrast(logits):
    """Mean over both directions of the negative log probability of the own partner."""
    s = logits.double()
    n = len(s)
    total = s.new_zeros(())
    for i in range(n):
        total = total - (s[i, i] - torch.log(sum(torch.exp(s[i, j]) for j in range(n))))
        total = total - (s[i, i] - torch.log(sum(torch.exp(s[j, i]) for j in range(n))))
    return total / (2 * n)


def naive_distance(u, v, scale):
    """Mean KL divergence of two isotropic Gaussians with equal variance 1 / scale around paired means."""
    u, v = u.double(), v.double()
    return sum((u[i] - v[i]) @ (u[i] - v[i]) * scale / 2 for i in range(len(u))) / len(u)


def naive_linear_gaussian_bound(z, other, q, variance):
    """Mean divergence of N(z, variance I) from N(W z' + b, C), pair by pair, by torch.distributions."""
    weight, bias, covariance = q
    normal = torch.distributions.MultivariateNormal
    eye = torch.eye(z.shape[1], dtype=torch.float64)
    total = z.new_zeros((), dtype=torch.float64)
    for i in range(len(z)):
        guess = normal(weight @ other[i].double() + bias, covariance)
        total = total + torch.distributions.kl_divergence(normal(z[i].double(), variance * eye), guess)
    return total / len(z)


def naive_fit(batches, variance, *, momentum, ridge):
    """W, b, C of q(z | z') by weighted least squares over all rows of the past, prior rows and ridge rows among them.

    The prior is z = z' = +-e_k, each of 2 D points with equal weight: mean 0 and second moment I / D.
    """
    width = batches[0][0].shape[1] if batches else None
    eye = torch.eye(width, dtype=torch.float64)
    z, other = [eye, -eye], [eye, -eye]
    weights = [torch.full((2 * width,), momentum ** len(batches) / (2 * width), dtype=torch.float64)]
    for age, (a, b) in enumerate(reversed(batches)):
        z.append(a.double())
        other.append(b.double())
        weights.append(torch.full((len(a),), (1 - momentum) * momentum**age / len(a), dtype=torch.float64))
    z, other, weights = torch.cat(z), torch.cat(other), torch.cat(weights)
    root = weights.sqrt()[:, None]
    rows = torch.cat([other, torch.ones(len(z), 1, dtype=torch.float64)], 1) * root
    pull = torch.cat([(ridge / width) ** 0.5 * eye, torch.zeros(width, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(torch.cat([rows, pull]), torch.cat([(z - other) * root, torch.zeros_like(eye)]))
    weight, bias = eye + solution.solution[:width].T, solution.solution[width]
    residual = z - other @ weight.T - bias
    covariance = variance * eye
    for w, r in zip(weights, residual):
        covariance = covariance + w * torch.outer(r, r)
    return weight, bias, covariance


def naive_donsker_varadhan(critic, z, hidden, shift):
    """mean T(z_i, h_i) - log mean exp T(z_i, h_(i - shift)), one pair at a time; critic takes two vectors."""
    n = len(z)
    joint = sum(critic(z[i].double(), hidden[i].double()) for i in range(n)) / n
    marginal = sum(torch.exp(critic(z[i].double(), hidden[(i - shift) % n].double())) for i in range(n)) / n
    return joint - torch.log(marginal)


def naive_critic(state, name):
    """T(z, h) of one critic of `mine` from its saved numbers, neuron by neuron sums left to matrix times vector."""
    s = {key.removeprefix(f"{name}."): value.double() for key, value in state.items() if key.startswith(f"{name}.")}

    def score(z, h):
        x = (torch.cat([z, h]) - s["mean"]) * s["factor"]
        for layer in (0, 2):
            x = torch.relu(s[f"layers.{layer}.weight"] @ x + s[f"layers.{layer}.bias"])
        return (s["layers.4.weight"] @ x + s["layers.4.bias"])[0]

    return score

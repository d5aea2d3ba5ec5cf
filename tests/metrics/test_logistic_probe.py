import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from clipib.metrics import logistic_probe
from clipib.metrics.few_shot import assign_folds
from clipib.metrics.logistic_probe import STRENGTHS, linear_probe


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), 30))
    features = 2.0 + 0.8 * rng.normal(size=(4, 8))[labels] + rng.normal(size=(120, 8))  # far from the origin
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def minimised(x, y, n_classes, c):
    """The docstring's objective, written out and minimised by another hand."""

    def loss(theta):
        w, b = theta[:-n_classes].reshape(n_classes, -1), theta[-n_classes:]
        z = x @ w.T + b
        p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
        d = c * (p - np.eye(n_classes)[y])
        value = (w**2).sum() / 2 - c * np.log(p[np.arange(len(y)), y]).sum()
        return value, np.append((d.T @ x + w).ravel(), d.sum(0))

    found = minimize(loss, np.zeros(n_classes * (x.shape[1] + 1)), jac=True, options={"gtol": 1e-9, "maxiter": 5000})
    w, b = found.x[:-n_classes].reshape(n_classes, -1), found.x[-n_classes:]
    return lambda z: z @ w.T + b


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_logits_minimise_the_objective_at_the_chosen_strength(data, n_classes):
    x, y = (part[data[1] < n_classes] for part in data)
    cut = len(y) * 3 // 4
    logits, c = linear_probe(x[:cut], y[:cut], x[cut:], n_classes=n_classes, folds=assign_folds(y[:cut], seed=0))
    mean = x[:cut].mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.square(x[:cut] - mean).sum(1).mean())
    ridge = 2 if n_classes == 2 else 1  # 1/2 |w|^2 = |W|^2 for W = (-w/2, w/2)
    direct = minimised((x[:cut] - mean) / scale, y[:cut], n_classes, c / ridge)((x[cut:] - mean) / scale)
    centred = [z - z.mean(1, keepdims=True) for z in (logits, direct)]  # a constant per image is no difference
    assert c in STRENGTHS and centred[0] == pytest.approx(centred[1], abs=2e-3)


def test_the_strength_is_that_with_most_hits_on_held_out_folds(data):
    x, y = data
    folds = assign_folds(y, seed=4)
    _, chosen = linear_probe(x, y, x[:1], n_classes=4, folds=folds)
    mean = x.mean(axis=0, dtype=np.float64)
    z = (x - mean) / np.sqrt(np.square(x - mean).sum(1).mean())
    tried = {}
    for c in STRENGTHS[:4]:
        logits = np.empty((120, 4))
        for fold in range(5):
            logits[folds == fold] = minimised(z[folds != fold], y[folds != fold], 4, c)(z[folds == fold])
        loss = (np.logaddexp.reduce(logits, axis=1) - logits[np.arange(120), y]).sum()
        tried[c] = ((logits.argmax(1) == y).sum(), -loss)
    assert chosen == max(tried, key=tried.get)
    assert len({hits for hits, _ in tried.values()}) > 1


def test_the_test_images_choose_nothing(data):
    x, y = data
    folds = assign_folds(y[:80], seed=0)
    one = linear_probe(x[:80], y[:80], x[80:], n_classes=4, folds=folds)
    other = linear_probe(x[:80], y[:80], -x[80:81], n_classes=4, folds=folds)
    few = linear_probe(x[:80], y[:80], x[80:83], n_classes=4, folds=folds)
    assert one[1] == other[1] == few[1] and few[0] == pytest.approx(one[0][:3], abs=1e-5)


def test_a_scale_of_the_spread_changes_nothing(data):
    """Features close together, as of a checkpoint with a narrow cone, give the same probe."""
    x, y = data
    folds = assign_folds(y[:80], seed=0)
    mean = x.mean(0)
    wide, narrow = (
        linear_probe(z[:80], y[:80], z[80:], n_classes=4, folds=folds) for z in (x, mean + 0.1 * (x - mean))
    )
    assert wide[1] == narrow[1] and narrow[0] == pytest.approx(wide[0], abs=1e-2)


def test_no_warning_reaches_the_user_and_single_classes_are_refused(data, monkeypatch):
    x, y = data
    monkeypatch.setattr(logistic_probe, "MAX_STEPS", 1)
    few = np.array([np.flatnonzero(y == k)[0] for k in (0, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits, c = linear_probe(x[few], y[few], x, n_classes=4, folds=assign_folds(y[few], seed=0))
        linear_probe(x, y, x, n_classes=4, folds=assign_folds(y, seed=0))
    assert c == 10.0 and np.isneginf(logits[:, [1, 3]]).all()
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(x[:3], np.zeros(3, dtype=int), x, n_classes=4, folds=np.zeros(3, dtype=int))

import torch

from clipib.models.load import load_model
from clipib.training.optimisation import clamp_logit_scale, make_optimizer


def test_only_matrices_decay():
    module = load_model("tiny", "none", device="cpu").module
    decayed, plain = make_optimizer(module, lr=1e-3, weight_decay=0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert any(p is module.logit_scale for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(module.parameters()))


def test_the_scale_stays_between_1_and_100():
    module = load_model("tiny", "none", device="cpu").module
    for value, expected in ((9.0, 100.0), (-1.0, 1.0), (2.0, 7.389)):
        with torch.no_grad():
            module.logit_scale.fill_(value)
        clamp_logit_scale(module)
        assert abs(float(module.logit_scale.detach().exp()) - expected) < 1e-3

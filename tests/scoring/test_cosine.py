import pytest
import torch

from clipib.scoring.cosine import cosine_logits
from clipib.scoring.features import Features, as_features


def test_logits_are_scaled_cosines_in_float32():
    u, v = (torch.nn.functional.normalize(torch.randn(n, 5), dim=-1) for n in (3, 4))
    logits = cosine_logits(as_features(u.bfloat16()), as_features(v), logit_scale=10.0, logit_bias=-2.0)
    assert logits.dtype == torch.float32
    for i in range(3):
        for j in range(4):
            expected = 10 * float(u[i].bfloat16().double() @ v[j].double()) - 2
            assert float(logits[i, j]) == pytest.approx(expected, abs=1e-5)  # float32 sums of five products


def test_several_points_are_refused():
    sets = Features(torch.ones(2, 3, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="3 points"):
        cosine_logits(sets, sets, logit_scale=1.0)

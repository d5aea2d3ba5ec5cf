import pytest
import torch

from clipib.errors import UserError
from clipib.losses import CONTRASTS, LOSSES, PENALTIES
from clipib.losses.composed import make_loss
from clipib.registry import resolve
from clipib.scoring import SIMILARITIES


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_names_parts_that_exist(name):
    row = LOSSES[name]
    for table, part in ((CONTRASTS, row.contrast), (SIMILARITIES, row.similarity), (PENALTIES, row.penalty)):
        assert callable(resolve("part", table, part))


def test_cibr_is_clip_plus_the_weighted_penalty():
    u, v = (torch.nn.functional.normalize(torch.randn(8, 4), dim=-1) for _ in range(2))
    scale = torch.tensor(10.0)
    clip = make_loss("clip").compute(u, v, scale, None)
    cibr = make_loss("cibr", penalty_weight=0.3).compute(u, v, scale, None)
    assert set(clip.terms) == {"loss_contrast"}
    assert float(cibr.total) == pytest.approx(float(clip.total) + 0.3 * float(cibr.terms["loss_penalty_nats"]))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(UserError, match="penalty weight"):
        make_loss("cibr", penalty_weight=weight)


def test_the_loss_is_float32_for_bfloat16_features():
    u, v = (torch.nn.functional.normalize(torch.randn(8, 4), dim=-1).bfloat16() for _ in range(2))
    assert make_loss("cibr").compute(u, v, torch.tensor(10.0), None).total.dtype == torch.float32

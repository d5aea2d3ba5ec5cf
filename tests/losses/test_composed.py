import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from reference.contrasts import random_points

from clipib.errors import UserError
from clipib.losses import CONTRASTS, LOSSES, PENALTIES
from clipib.losses.composed import make_loss
from clipib.losses.terms import Paired
from clipib.registry import resolve
from clipib.scoring import SIMILARITIES
from clipib.scoring.features import Features

SCALE = torch.tensor(10.0)


def paired(n=8, width=4, **fields):
    generator = torch.Generator().manual_seed(n)
    u, v = (torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1) for _ in range(2))
    return Paired(u, v, **fields)


def single_points(u, v):
    ones = torch.ones(len(u), 1)
    return {"image_points": Features(u[:, None], ones), "text_points": Features(v[:, None], ones)}


@pytest.mark.parametrize("name", LOSSES)
def test_every_row_names_parts_that_exist(name):
    row = LOSSES[name]
    for table, part in ((CONTRASTS, row.contrast), (SIMILARITIES, row.similarity), (PENALTIES, row.penalty)):
        assert resolve("part", table, part)


def test_clip_and_siglip_equal_open_clip():
    batch = paired(33, 16)
    clip = make_loss("clip").compute(batch, SCALE)
    assert float(clip.total) == pytest.approx(float(ClipLoss()(batch.image, batch.text, SCALE)), rel=1e-6)
    bias = torch.tensor(-7.0)
    siglip = make_loss("siglip").compute(batch, SCALE, bias)
    assert float(siglip.total) == pytest.approx(float(SigLipLoss()(batch.image, batch.text, SCALE, bias)), rel=1e-6)


def test_cibr_is_clip_plus_the_weighted_penalty():
    batch = paired()
    clip = make_loss("clip").compute(batch, SCALE)
    cibr = make_loss("cibr", penalty_weight=0.3).compute(batch, SCALE)
    assert set(clip.terms) == {"loss_contrast"}
    assert float(cibr.total) == pytest.approx(float(clip.total) + 0.3 * float(cibr.terms["loss_penalty_nats"]))


def test_kme_of_one_point_is_clip_with_temperature_sigma2_in_loss_and_gradients():
    batch = paired(33, 16)
    gradients = []
    for name in ("clip", "kme"):
        u, v = batch.image.clone().requires_grad_(), batch.text.clone().requires_grad_()
        total = make_loss(name).compute(Paired(u, v, **single_points(u, v)), SCALE).total
        gradients.append((float(total.detach()), *torch.autograd.grad(total, (u, v))))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_under_sigmoid_the_bias_absorbs_the_constant_of_kme():
    batch = paired(17, 8)
    points = batch._replace(**single_points(batch.image, batch.text))
    kme = make_loss("kme", contrast="sigmoid").compute(points, SCALE, SCALE - 3)
    siglip = make_loss("siglip").compute(batch, SCALE, torch.tensor(-3.0))
    assert float(kme.total) == pytest.approx(float(siglip.total), rel=1e-5)


def test_parts_combine_freely():
    u, v = (Features(*random_points(9, 3, 4, seed=s, dtype=torch.float32)) for s in (0, 1))
    generator = torch.Generator().manual_seed(0)
    hidden = {f"{side}_hidden": torch.randn(9, 5, generator=generator) for side in ("image", "text")}
    batch = paired(9, 4, image_points=u, text_points=v, **hidden)
    for contrast in CONTRASTS:
        for similarity in SIMILARITIES:
            for penalty in PENALTIES:
                loss = make_loss("clip", contrast=contrast, similarity=similarity, penalty=penalty)
                terms = loss.compute(batch, SCALE, torch.tensor(-3.0)).terms
                assert set(terms) == set(loss.term_names) and all(torch.isfinite(t) for t in terms.values())


def test_points_are_asked_for():
    with pytest.raises(ValueError, match="points"):
        make_loss("kme").compute(paired(), SCALE)


def test_at_the_balanced_bias_the_gradient_of_the_bias_is_zero():
    for groups in (None, torch.arange(33) // 3):
        batch, loss = paired(33, 16, groups=groups), make_loss("siglip")
        bias = torch.tensor(loss.balanced_bias(batch, SCALE), requires_grad=True)
        total = loss.compute(batch, SCALE, bias).total
        assert abs(float(torch.autograd.grad(total, bias)[0])) < 1e-4  # float32 sums of 1,089 terms


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_an_impossible_weight_is_refused(weight):
    with pytest.raises(UserError, match="penalty weight"):
        make_loss("cibr", penalty_weight=weight)


def test_a_weight_without_a_penalty_is_refused():
    with pytest.raises(UserError, match="no penalty"):
        make_loss("clip", penalty_weight=0.1)
    assert make_loss("clip", penalty="distance").penalty_weight == LOSSES["cibr"].penalty_weight


def test_under_bfloat16_the_loss_is_computed_in_float32():
    """Rounding unit features to 8 bits moves a logit by at most scale 2^-8, and so the loss; nothing else is lost."""
    batch = paired(33, 16)
    low = batch._replace(image=batch.image.bfloat16(), text=batch.text.bfloat16())
    for name, bias in (("clip", None), ("cibr", None), ("siglip", torch.tensor(-5.0))):
        loss = make_loss(name)
        exact = loss.compute(batch, SCALE, bias).total
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss.compute(low, SCALE, bias).total
            same_input = loss.compute(batch, SCALE, bias).total
        assert found.dtype == torch.float32
        assert float(same_input) == float(exact)
        terms = 33 if name == "siglip" else 2
        assert abs(float(found) - float(exact)) <= terms * float(SCALE) * 2**-8

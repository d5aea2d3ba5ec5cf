import pytest
import torch

from clipib import finetune
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.training.locking import LOCKS, lock_towers, set_training, side_of


@pytest.mark.parametrize("lock", LOCKS)
def test_locked_trunks_stay_and_projections_learn(lock, tmp_path):
    start = load_model("tiny", "none", device="cpu").module.state_dict()
    options = {"pretrained": "none", "batch_size": 16, "steps": 3, "lr": 1e-2}
    finetune("tiny", "digitworld:n=80", lock=lock, out=tmp_path / "f", **options)
    after = load_model(str(tmp_path / "f/last"), device="cpu").module.state_dict()
    for name, before in start.items():
        moved = not torch.equal(before, after[name])
        if name in ("visual.proj", "text_projection", "logit_scale"):
            assert moved, name
        elif side_of(name) in LOCKS[lock]:
            assert not moved, name
    for side, name in (("image", "visual.conv1.weight"), ("text", "token_embedding.weight")):
        assert torch.equal(start[name], after[name]) == (side in LOCKS[lock])


@pytest.mark.parametrize("name", ["RN50", "convnext_base"])
def test_other_image_towers(name):
    model = load_model(name, "none", device="cpu")
    lock_towers(model, "image")
    set_training(model)
    left = {n for n, p in model.module.visual.named_parameters() if p.requires_grad}
    assert left and all(n.startswith(("attnpool.c_proj", "head.")) for n in left)
    assert not any(part.training for part in model.module.visual.modules())
    assert model.module.transformer.training
    norms = [m for m in model.module.visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    with torch.no_grad():
        model.encode_images(torch.randn(2, 3, 224, 224))
    assert all(torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True))


def test_nothing_left_to_train_is_said():
    model = load_model("tiny", "none", device="cpu")
    model.module.visual.proj.requires_grad_(False)
    model.module.text_projection.requires_grad_(False)
    with pytest.raises(UserError, match="nothing of tiny is left to train"):
        lock_towers(model, "both")


def test_an_unknown_lock_is_refused(tmp_path):
    with pytest.raises(UserError, match="lock"):
        finetune("tiny", "digitworld:n=80", pretrained="none", lock="imge", out=tmp_path / "f")

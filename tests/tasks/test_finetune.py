import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from clipib import finetune
from clipib.errors import UserError
from clipib.models.checkpoint import load_seen, short_keys
from clipib.models.load import load_model

QUICK = {"pretrained": "none", "batch_size": 4, "steps": 6, "lr": 1e-3, "eval_every": 3}


def metrics(out):
    return list(csv.DictReader((out / "metrics.csv").open()))


def test_the_loss_falls_and_every_term_is_logged(trained):
    rows = metrics(trained)
    losses = [float(r["loss_total"]) for r in rows if r["loss_total"]]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert rows[0]["step"] == "0" and rows[-1]["step"] == "200"
    assert all(r["loss_contrast"] and r["lr"] and r["logit_scale"] for r in rows[1:])


def test_rows_tell_start_best_and_last(photo_folder, tmp_path):
    outcome = finetune("tiny", f"folder:{photo_folder}", loss="cibr", out=tmp_path / "f", **QUICK)
    stages = {r.params: r for r in outcome.rows if r.metric == "acc1"}
    assert list(stages) == ["stage=start", "stage=best", "stage=last"]
    assert stages["stage=best"].loss == "cibr" and stages["stage=start"].loss == ""
    best = load_model(str(tmp_path / "f" / "best"))
    assert best.fingerprint == stages["stage=best"].checkpoint_sha256
    assert all(r["loss_penalty_nats"] for r in metrics(tmp_path / "f")[1:])


def test_what_a_run_saw_is_recorded_and_held_out_images_are_new(photo_folder, tmp_path):
    from clipib.data.load import load_dataset

    finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", **QUICK)
    seen = load_seen(tmp_path / "f" / "best")
    everything = short_keys(load_dataset(f"folder:{photo_folder}", role="train").keys)
    assert not set(seen.train) & set(seen.val)
    assert set(seen.train) | set(seen.val) == set(everything)


def test_fine_tuning_again_remembers_the_first_run(photo_folder, tmp_path):
    finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "a", **QUICK)
    again = {**QUICK, "pretrained": None}
    finetune(str(tmp_path / "a" / "last"), "digitworld:n=40", out=tmp_path / "b", **again)
    assert set(load_seen(tmp_path / "a" / "last").train) < set(load_seen(tmp_path / "b" / "last").train)


def test_train_and_validation_that_share_an_image_are_refused(photo_folder, tmp_path):
    (photo_folder / "test" / "blue_dot" / "copy.png").write_bytes((photo_folder / "train/blue_dot/0.png").read_bytes())
    with pytest.raises(UserError, match=r"1 image of the validation data .*blue_dot/copy.png"):
        finetune("tiny", f"folder:{photo_folder}", val=f"folder:{photo_folder}/test", out=tmp_path / "f", **QUICK)
    assert not (tmp_path / "f").exists()


def test_unreadable_training_images_are_named_before_training(photo_folder, tmp_path):
    (photo_folder / "train" / "blue_dot" / "3.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 of 12 images cannot be read .*blue_dot/3.png"):
        finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", **QUICK)
    finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", max_bad=1, **QUICK)


def test_the_batch_is_cut_to_the_data(photo_folder, tmp_path):
    options = {**QUICK, "batch_size": 500, "steps": None, "epochs": 2}
    finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", **options)
    assert metrics(tmp_path / "f")[-1]["images"] == "22"  # 12 images, one held out, two epochs


def test_a_finished_run_is_kept_and_other_settings_are_refused(photo_folder, tmp_path):
    data, out = f"folder:{photo_folder}", tmp_path / "f"
    first = finetune("tiny", data, out=out, **QUICK)
    again = finetune("tiny", data, out=out, **QUICK)
    assert again.rows == first.rows
    with pytest.raises(UserError, match="finished run that differs in lr"):
        finetune("tiny", data, out=out, **{**QUICK, "lr": 2e-3})
    (photo_folder / "templates.txt").write_text("one {c}\n")
    with pytest.raises(UserError, match="differs in train_prompts, val_prompts"):
        finetune("tiny", data, out=out, **QUICK)
    finetune("tiny", data, out=out, fresh=True, **QUICK)


def test_a_loss_that_is_not_finite_stops_with_the_name_of_the_term(photo_folder, tmp_path):
    with pytest.raises(UserError, match="loss_penalty_nats|loss_contrast"):
        finetune(
            "tiny", f"folder:{photo_folder}", loss="cibr", out=tmp_path / "f", **{**QUICK, "lr": 1e30, "warmup": 0}
        )


def run(out, *more):
    command = [sys.executable, "-m", "clipib", "finetune", "--model", "tiny", "--pretrained", "none"]
    command += ["--train", "digitworld:n=600", "--loss", "cibr", "--batch-size", "16", "--steps", "60"]
    command += ["--eval-every", "50", "--save-every", "10", "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_run_resumes_from_the_last_saved_step_to_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.wait(timeout=240) == 0, whole.stderr.read()
    killed = run(tmp_path / "killed")
    end = time.monotonic() + 120
    while not (tmp_path / "killed" / "training_state.pt").exists() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    plain = run(tmp_path / "killed")
    assert plain.wait(timeout=120) == 2
    message = plain.stderr.read()
    assert "--resume" in message and "--fresh" in message and "Traceback" not in message
    resumed = run(tmp_path / "killed", "--resume")
    assert resumed.wait(timeout=240) == 0
    said = resumed.stderr.read()
    assert "resuming after step" in said and "resuming after step 0 " not in said
    steps = [r["step"] for r in metrics(tmp_path / "killed")]
    assert steps == [str(s) for s in range(61)]  # no step twice, none missing
    shas = [
        json.loads((tmp_path / d / "last" / "clipib.json").read_text())["checkpoint_sha256"]
        for d in ("whole", "killed")
    ]
    assert shas[0] == shas[1]
    assert not (tmp_path / "killed" / "training_state.pt").exists()


def test_resuming_with_other_settings_names_them(photo_folder, tmp_path, monkeypatch):
    import clipib.training.loop as loop

    def stop(*_):
        raise KeyboardInterrupt

    data, out = f"folder:{photo_folder}", tmp_path / "f"
    save = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda *a: (save(*a), stop()))
    with pytest.raises(KeyboardInterrupt):
        finetune("tiny", data, out=out, **QUICK)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"lr: 0.001 before, 0.002 now"):
        finetune("tiny", data, out=out, resume=True, **{**QUICK, "lr": 2e-3})
    assert finetune("tiny", data, out=out, resume=True, **QUICK).rows


def test_fresh_deletes_nothing_before_the_new_run_can_begin(photo_folder, tmp_path):
    data, out = f"folder:{photo_folder}", tmp_path / "f"
    finetune("tiny", data, out=out, **QUICK)
    before = sorted(p.name for p in out.rglob("*"))
    other = tmp_path / "other"
    finetune("tiny", data, out=other, **QUICK)
    weights = other / "last" / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    again = {**QUICK, "pretrained": None}
    for start, place in ((other / "last", out), (out / "best", out), (out / "best", out / "best" / "x")):
        with pytest.raises(UserError, match="damaged|lie in each other"):
            finetune(str(start), data, out=place, fresh=True, **again)
    assert sorted(p.name for p in out.rglob("*")) == before


def test_a_mistake_at_loading_leaves_no_unfinished_run(photo_folder, tmp_path):
    data, out = f"folder:{photo_folder}", tmp_path / "f"
    (tmp_path / "no.pt").write_bytes(b"no weights")
    with pytest.raises(UserError):
        finetune("tiny", data, out=out, **{**QUICK, "pretrained": str(tmp_path / "no.pt")})
    assert finetune("tiny", data, out=out, **QUICK).rows


def test_allow_overlap_lifts_the_refusal_and_marks_the_rows(photo_folder, tmp_path):
    data = f"folder:{photo_folder}"
    options = {**QUICK, "val": f"folder:{photo_folder}/train", "allow_overlap": True}
    rows = finetune("tiny", data, out=tmp_path / "f", **options).rows
    assert all("overlap=train" in r.params for r in rows)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lr": -1.0}, "learning rate"),
        ({"lr": float("nan")}, "learning rate"),
        ({"lr": 0.0}, "learning rate"),
        ({"clip_norm": float("inf")}, "--clip-norm"),
        ({"epochs": 2}, "Both --epochs 2 and --steps 6"),
        ({"penalty_weight": 3.0}, "no penalty"),
        ({"device": "gpu"}, "Unknown device"),
        ({"out": ""}, "--out names no folder"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(photo_folder, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        finetune("tiny", f"folder:{photo_folder}", **{"out": tmp_path / "f", **QUICK, **change})
    assert not (tmp_path / "f").exists()


def test_without_clipping_training_goes_on(photo_folder, tmp_path):
    rows = finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", **QUICK, clip_norm=0.0).rows
    assert len({r.checkpoint_sha256 for r in rows}) > 1


def test_a_run_killed_before_anything_was_saved_is_unfinished_all_the_same(photo_folder, tmp_path, monkeypatch):
    import clipib.training.loop as loop

    def stop(*_, **__):
        raise KeyboardInterrupt

    data, out = f"folder:{photo_folder}", tmp_path / "f"
    monkeypatch.setattr(loop, "clamp_logit_scale", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune("tiny", data, out=out, **QUICK)
    monkeypatch.undo()
    with pytest.raises(UserError, match="unfinished run") as error:
        finetune("tiny", data, out=out, **QUICK)
    assert "--resume" in error.value.hint and "--fresh" in error.value.hint
    finetune("tiny", data, out=out, resume=True, **QUICK)
    assert [r["step"] for r in metrics(out)] == [str(s) for s in range(7)]


def test_a_run_is_finished_when_its_rows_and_both_checkpoints_are_there(photo_folder, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    data, out = f"folder:{photo_folder}", tmp_path / "f"
    monkeypatch.setattr("clipib.tasks.finetune.with_intervals", stop)  # killed after the last checkpoint was written
    with pytest.raises(KeyboardInterrupt):
        finetune("tiny", data, out=out, **QUICK)
    monkeypatch.undo()
    (out / "training_state.pt").unlink(missing_ok=True)  # as where no step was saved
    assert (out / "last").is_dir()
    with pytest.raises(UserError, match="unfinished run"):
        finetune("tiny", data, out=out, **QUICK)
    whole = finetune("tiny", data, out=tmp_path / "whole", **QUICK)
    facts = [(r.metric, r.params, r.value, r.ci_low) for r in whole.rows]
    resumed = finetune("tiny", data, out=out, resume=True, **QUICK)
    assert [(r.metric, r.params, r.value, r.ci_low) for r in resumed.rows] == facts
    shutil.rmtree(out / "best")
    with pytest.raises(UserError, match="unfinished run"):
        finetune("tiny", data, out=out, **QUICK)


def test_a_resumed_run_has_the_start_of_its_first_step_or_none(photo_folder, tmp_path, monkeypatch):
    """Killed at step 4 of 6; then what was seen at the start is lost, or damaged."""
    import clipib.training.loop as loop

    def stop_at_4(model):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt

    data, expected = f"folder:{photo_folder}", None
    for harm in ("none", "lost", "damaged"):
        steps, out = [], tmp_path / harm
        with monkeypatch.context() as patch:
            patch.setattr(loop, "clamp_logit_scale", stop_at_4)
            with pytest.raises(KeyboardInterrupt):
                finetune("tiny", data, out=out, **QUICK)
        start = out / ".validation" / "start.parquet"
        if harm == "lost":
            start.unlink()
        elif harm == "damaged":
            start.write_bytes(b"x")
        rows = finetune("tiny", data, out=out, resume=True, **QUICK).rows
        intervals = {r.params: (r.ci_low, r.ci_high) for r in rows if r.metric == "acc1"}
        if harm == "none":
            expected = intervals
        assert intervals == expected | ({} if harm == "none" else {"stage=start": (None, None)})


def test_weights_that_are_not_finite_stop_training_and_name_the_rate(photo_folder, tmp_path, monkeypatch):
    import clipib.training.loop as loop

    monkeypatch.setattr(loop, "clamp_logit_scale", lambda module: next(module.parameters()).data.fill_(torch.nan))
    with pytest.raises(UserError, match="not finite after step 1") as error:
        finetune("tiny", f"folder:{photo_folder}", out=tmp_path / "f", **{**QUICK, "eval_every": 1, "steps": 1})
    assert "--lr" in error.value.hint


def test_a_damaged_log_is_named_at_resuming(photo_folder, tmp_path, monkeypatch):
    from clipib.training.log import MetricsLog

    for content in (b"a,b\n1,2\n", b"\xff\xfe\x00"):
        (tmp_path / "metrics.csv").write_bytes(content)
        with pytest.raises(UserError, match="metrics.csv' is damaged"):
            MetricsLog(tmp_path / "metrics.csv", ["step"], after_step=3)
        assert (tmp_path / "metrics.csv").read_bytes() == content


@pytest.mark.parametrize("data", ["folder:photos", "digitworld:n=60"])
def test_every_row_has_the_interval_of_its_samples(photo_folder, tmp_path, monkeypatch, data):
    monkeypatch.chdir(photo_folder.parent)
    rows = finetune("tiny", data, val="digitworld:n=30" if "digit" in data else None, out=tmp_path / "f", **QUICK).rows
    table = pd.read_parquet(next((tmp_path / "f" / "samples").glob("*.parquet")))
    assert table.checkpoint_sha256.nunique() == len({r.checkpoint_sha256 for r in rows})
    for row in rows:
        own = table[table.checkpoint_sha256 == row.checkpoint_sha256]
        if row.metric == "acc1":
            assert own.correct.mean() == row.value
        elif row.metric == "image_retrieval_recall@5":
            assert (own[own.direction == "text_to_image"]["rank"] < 5).mean() == pytest.approx(row.value)
        assert row.n == 1 or row.ci_low <= row.value <= row.ci_high
    assert not (tmp_path / "f" / ".validation").exists()


def test_a_run_is_gated_on_proved_drops(clipib):
    """Chance against chance proves nothing; of a baseline that is right throughout, a run at chance loses for sure."""
    train = ["finetune", "-m", "tiny", "--pretrained", "none", "--train", "digitworld:n=60"]
    train += ["--val", "digitworld:n=200", "--steps", "2", "--batch-size", "8"]
    assert clipib(*train, "--out", "a").exit_code == 0
    gates = ["--baseline", "a", "--max-drop", "0.003", "--significant", "--lr", "1e-9", "--seed", "1"]
    found = clipib(*train, *gates, "--out", "b")
    assert found.exit_code == 0, found.output
    (verdict,) = csv.DictReader(Path("b/gates.csv").read_text().splitlines())
    assert verdict["verdict"] == "passed" and "not proved" in verdict["words"]
    assert float(verdict["low"]) < float(verdict["high"])
    table, best = Path("a/samples/digitworld.parquet"), pd.read_csv("a/results.csv", dtype=str, keep_default_na=False)
    pd.read_parquet(table).assign(rank=0).to_parquet(table)
    best.loc[best.metric == "image_retrieval_recall@1", "value"] = "1.0"
    best.to_csv("a/results.csv", index=False)
    assert clipib(*train, *gates, "--out", "c").exit_code == 1
    (verdict,) = csv.DictReader(Path("c/gates.csv").read_text().splitlines())
    assert verdict["verdict"] == "failed" and "drop proved" in verdict["words"]

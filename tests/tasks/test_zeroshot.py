import numpy as np
import pandas as pd
import pytest
import torch

from clipib import finetune, zeroshot
from clipib.data.load import load_dataset
from clipib.errors import UserError
from clipib.models.load import load_model
from clipib.tasks.results import read_rows


def by_metric(rows, dataset):
    return {(r.metric, r.params): r for r in rows if r.dataset == dataset}


def test_the_numbers_equal_a_direct_computation(checkpoint, tmp_path):
    outcome = zeroshot(str(checkpoint), "digitworld:n=300", out=tmp_path / "z")
    rows = by_metric(outcome.rows, "digitworld/color")
    model, dataset = load_model(str(checkpoint), device="cpu"), load_dataset("digitworld/color:n=300", need="label")
    with torch.inference_mode():
        images = model.encode_images(torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in range(300)]))
        classes = []
        for name in dataset.classnames:
            prompts = [t.replace("{c}", name) for t in dataset.templates]
            mean = model.encode_texts(model.tokenize(prompts), cut=False).mean(0)
            classes.append(mean / mean.norm())
        predicted = (images @ torch.stack(classes).T).argmax(1).numpy()
    assert rows["acc1", ""].value == pytest.approx((predicted == dataset.labels).mean())
    coloured = ~dataset.world.scenes.grey[:, 0]
    expected = (predicted == dataset.labels)[coloured].mean()
    assert rows["acc1", "images=ungreyed"].value == pytest.approx(expected)
    assert rows["acc1_bayes", "images=ungreyed"].value == 1.0
    assert 0.85 < rows["acc1_bayes", ""].value < 0.95
    samples = pd.read_parquet(tmp_path / "z" / "samples" / "digitworld-color.parquet")
    assert samples["predicted"].tolist() == predicted.tolist()
    assert samples[samples["images"] == "ungreyed"]["correct"].mean() == pytest.approx(expected)
    assert samples["correct"].mean() == rows["acc1", ""].value


def test_the_second_run_encodes_nothing_and_gives_the_same_rows(checkpoint, photo_folder, tmp_path):
    specs = ["digitworld/digit:n=50", f"folder:{photo_folder}"]
    first = zeroshot(str(checkpoint), specs, out=tmp_path / "a", cache_dir=tmp_path / "c")
    again = zeroshot(str(checkpoint), specs, out=tmp_path / "a", cache_dir=tmp_path / "c")
    other = zeroshot(str(checkpoint), specs, out=tmp_path / "b", cache_dir=tmp_path / "c")
    assert first.images_encoded == 58
    for later in (again, other):
        assert (later.images_encoded, later.texts_encoded) == (0, 0)
        assert later.rows == first.rows
    assert read_rows(tmp_path / "a" / "results.csv") == first.rows


def test_random_weights_are_said_in_every_row(photo_folder, tmp_path):
    rows = zeroshot("tiny", f"folder:{photo_folder}", pretrained="none", out=tmp_path / "z").rows
    assert {r.pretrained for r in rows} == {"random weights"}


def test_bad_images_are_left_out_and_counted(checkpoint, photo_folder, tmp_path):
    (photo_folder / "test" / "blue_dot" / "0.png").write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 8 images"):
        zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z")
    assert not (tmp_path / "z" / "results.csv").exists()
    (row, *_) = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", max_bad=1).rows
    assert (row.n, row.n_bad) == (7, 1)


def test_a_limit_marks_the_rows(checkpoint, photo_folder, tmp_path):
    rows = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", limit=4).rows
    assert {(r.n, r.limit) for r in rows} == {(4, 4)}


def test_templates_replace_those_of_the_data(checkpoint, photo_folder, tmp_path):
    (tmp_path / "t.txt").write_text("{c}\n")
    plain = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "a").rows[0]
    other = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "a", templates=tmp_path / "t.txt").rows[
        0
    ]
    assert plain.prompts_sha256 != other.prompts_sha256
    assert len(read_rows(tmp_path / "a" / "results.csv")) == 8


def test_training_images_are_refused_and_validation_images_marked(photo_folder, tmp_path):
    data = f"folder:{photo_folder}"
    options = {"pretrained": "none", "steps": 2, "batch_size": 4, "val": f"folder:{photo_folder}/test"}
    finetune("tiny", data, out=tmp_path / "f", **options)
    best = str(tmp_path / "f" / "best")
    with pytest.raises(UserError, match="12 of the 12 images .* was trained on"):
        zeroshot(best, f"folder:{photo_folder}/train", out=tmp_path / "z")
    allowed = zeroshot(best, f"folder:{photo_folder}/train", out=tmp_path / "z", allow_overlap=True).rows
    assert all("overlap=train" in r.params.split(";") for r in allowed)
    assert all("overlap=val" in r.params.split(";") for r in zeroshot(best, data, out=tmp_path / "z").rows)


def test_a_dry_run_finds_a_corrupt_first_image_and_writes_nothing(checkpoint, photo_folder, tmp_path):
    (photo_folder / "test" / "blue_dot" / "0.png").write_bytes(b"x")
    with pytest.raises(UserError, match="first image"):
        zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", dry_run=True)
    assert not (tmp_path / "z").exists()


def test_equal_class_names_tie_to_the_first(checkpoint, photo_folder, tmp_path):
    (photo_folder / "classnames.txt").write_text("same\nsame\n")
    rows = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z").rows
    assert rows[0].value == 0.5 and rows[0].n_ties == 8


def test_mnist_and_sign_digits_in_one_command(checkpoint, shared_data, tmp_path):
    """The idx files of MNIST become class folders here; 300 of them are enough for the test."""
    import gzip

    from PIL import Image

    source = shared_data("mnist_t10k")
    images = np.frombuffer(gzip.decompress((source / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((source / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    for i in range(300):
        folder = tmp_path / "mnist" / "test" / str(labels[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.reshape(-1, 28, 28)[i]).save(folder / f"{i:05d}.png")
    specs = f"folder:{tmp_path}/mnist,folder:{shared_data('sign_digits_300')}"
    first = zeroshot(str(checkpoint), specs, out=tmp_path / "z", cache_dir=tmp_path / "c")
    again = zeroshot(str(checkpoint), specs, out=tmp_path / "other", cache_dir=tmp_path / "c")
    assert [r.n for r in first.rows if r.metric == "acc1"] == [300, 100]
    assert first.images_encoded == 400 and (again.images_encoded, again.texts_encoded) == (0, 0)
    assert [r.value for r in first.rows] == [r.value for r in again.rows]


def test_rows_that_left_images_out_are_not_kept_where_none_may_be(checkpoint, photo_folder, tmp_path):
    (photo_folder / "test" / "blue_dot" / "0.png").write_bytes(b"x")
    zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", max_bad=1)
    with pytest.raises(UserError, match="1 of 8 images"):
        zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z")


def test_another_preprocessing_gives_other_rows(checkpoint, photo_folder, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "edited")
    (folder / "clipib.json").unlink()
    first = zeroshot(str(folder), f"folder:{photo_folder}", out=tmp_path / "z").rows
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.0, 0.0, 0.0]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    again = zeroshot(str(folder), f"folder:{photo_folder}", out=tmp_path / "z")
    assert again.images_encoded == 8
    assert again.rows[0].checkpoint_sha256 != first[0].checkpoint_sha256


def test_kept_rows_bear_the_names_of_this_call(checkpoint, photo_folder, tmp_path):
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "renamed")
    zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z")
    kept = zeroshot(str(folder), f"folder:{photo_folder}", out=tmp_path / "z")
    assert kept.images_encoded == 0 and {r.pretrained for r in kept.rows} == {str(folder)}


def test_a_limit_above_the_size_is_no_limit(checkpoint, photo_folder, tmp_path):
    rows = zeroshot(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "z", limit=1000).rows
    assert {r.limit for r in rows} == {None}

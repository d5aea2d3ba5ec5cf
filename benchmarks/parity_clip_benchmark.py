"""clipib against CLIP_benchmark, both as they are used: `python benchmarks/parity_clip_benchmark.py --setting full`.

Caltech-101, sign digits, MNIST and COCO captions become webdatasets by `clipib data export`; CLIP_benchmark's own
command and `clipib --protocol clip_benchmark` evaluate them with the same three checkpoint folders: a trained `tiny`,
and a ViT-B-32 and a ViT-B-16 with random weights, the latter with another preprocessing. Among the photographs are
palette, grey, transparent, CMYK and EXIF-rotated ones. Every number of both goes to results/parity_clip_benchmark.csv,
as a row of its own; finished runs are skipped, and `--table` prints what differs.

CLIP_benchmark's `accuracy` fails on NumPy 2.4, as `float()` of an array of one element does; it is called with one that
takes the element first, nothing else of it is changed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image

DATA = Path(os.environ.get("CLIPIB_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
RESULTS = Path(__file__).parent / "results" / "parity_clip_benchmark.csv"
THREE_TEMPLATES = ("a photo of a {c}.", "a bad photo of the {c}.", "art of the {c}.")
RECALLS = (1, 5, 10)
BATCH = 64


class Setting(NamedTuple):
    """images: of MNIST, class-balanced. runs: (checkpoint, data set, mixed precision)."""

    images: int
    runs: tuple[tuple[str, str, bool], ...]


LABELLED, CAPTIONED = ("caltech101", "sign_digits", "mnist"), ("coco",)
SETTINGS = {
    "small": Setting(50, (("tiny", "sign_digits", True), ("tiny", "coco", False))),
    "full": Setting(
        1_000,
        tuple(
            (checkpoint, data, amp)
            for checkpoint in ("tiny", "ViT-B-32", "ViT-B-16")
            for amp in (True, False)
            for data in (*CAPTIONED, *LABELLED)
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--home", type=Path, help="where data, checkpoints and the store are made, and kept")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_table(options.results, options.setting)
        return
    with tempfile.TemporaryDirectory() as made:
        home = options.home or Path(made)
        for run in SETTINGS[options.setting].runs:
            if run not in set(finished(options.results, options.setting)):
                compare(home, options.setting, run, options.results)


def compare(home: Path, setting: str, run: tuple[str, str, bool], results: Path) -> None:
    """One checkpoint on one data set by both tools."""
    checkpoint, data, amp = run
    folder = checkpoint_folder(home, checkpoint)
    shards = shard_folder(home, data, SETTINGS[setting].images, few=checkpoint != "tiny")
    theirs, ours = their_metrics(home, folder, shards, data, amp), our_metrics(home, folder, shards, data, amp)
    rows = [
        {"setting": setting, "checkpoint": checkpoint, "data": data, "precision": "amp" if amp else "fp32"}
        | {"metric": metric, "clip_benchmark": repr(value), "clipib": repr(ours[metric]), "n": ours[f"n {metric}"]}
        for metric, value in theirs.items()
    ]
    append(results, rows)
    for row in rows:
        print(" ".join(map(str, row.values())), flush=True)


# Checkpoints: folders that both tools open.


def checkpoint_folder(home: Path, name: str) -> Path:
    """The checkpoint, made where it is missing."""
    folder = home / "checkpoints" / name
    if name == "tiny":
        if not (folder / "best").exists():
            import clipib

            clipib.finetune(
                "tiny", "digitworld:n=2000+split=train", pretrained="none", loss="clip", steps=200, out=folder, seed=1
            )
        return folder / "best"
    if not folder.exists():
        from clipib.models.checkpoint import save_checkpoint
        from clipib.models.load import load_model

        save_checkpoint(load_model(name, "none", device="cpu", seed=1), folder, {"loss": ""})
        if name == "ViT-B-16":
            config = json.loads((folder / "open_clip_config.json").read_text())
            other = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
            config["preprocess_cfg"] = {**config.get("preprocess_cfg", {}), **other}
            (folder / "open_clip_config.json").write_text(json.dumps(config))
            (folder / "clipib.json").unlink()  # the record names the preprocessing that it was saved with
    return folder


# Data: folders of images, then shards.


def shard_folder(home: Path, data: str, n_mnist: int, *, few: bool) -> Path:
    """A webdataset of the data set, with three templates where they are to be few."""
    from clipib.tasks.export import export

    shards = home / "shards" / (data + ("-few" if few else ""))
    if shards.exists():
        return shards
    if data == "coco":
        export(f"csv:{DATA / 'coco_val2017_ccby' / 'captions.csv'}", shards, task="retrieval")
        return shards
    makers = {
        "caltech101": lambda: caltech(home / "caltech101"),
        "sign_digits": lambda: DATA / "sign_digits_300",
        "mnist": lambda: mnist(home / "mnist", n_mnist),
    }
    export(f"folder:{makers[data]()}", shards, task="classification")
    names = {"sign_digits": "mnist"}.get(data, data)
    templates = THREE_TEMPLATES if few else registry_templates(names)
    (shards / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return shards


def registry_templates(name: str) -> tuple[str, ...]:
    from clipib.data.catalog import CATALOG

    return CATALOG[name].templates


def caltech(folder: Path) -> Path:
    """The test photographs, five of each fiftieth class in other kinds of files."""
    kinds = (palette, grey, transparent, cmyk, rotated)
    if folder.exists():
        return folder
    for c, place in enumerate(sorted((DATA / "caltech101_20" / "test").iterdir())):
        (folder / "test" / place.name).mkdir(parents=True)
        for i, path in enumerate(sorted(place.iterdir())):
            out = folder / "test" / place.name / path.name
            if c % 10 == 0 and i < len(kinds):
                kinds[i](Image.open(path), out)
            else:
                out.write_bytes(path.read_bytes())
    return folder


def palette(image: Image.Image, out: Path) -> None:
    image.quantize(64).save(out.with_suffix(".png"))


def grey(image: Image.Image, out: Path) -> None:
    image.convert("L").save(out, quality=90)


def transparent(image: Image.Image, out: Path) -> None:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(out.with_suffix(".png"))


def cmyk(image: Image.Image, out: Path) -> None:
    image.convert("CMYK").save(out, quality=90)


def rotated(image: Image.Image, out: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    image.save(out, quality=90, exif=exif)


def mnist(folder: Path, n: int) -> Path:
    """Class folders of the first n / 10 images of each digit."""
    if folder.exists():
        return folder
    place = DATA / "mnist_t10k"
    images = np.frombuffer(gzip.decompress((place / "t10k-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    labels = np.frombuffer(gzip.decompress((place / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    for digit in range(10):
        (folder / "test" / str(digit)).mkdir(parents=True)
        for i in np.flatnonzero(labels == digit)[: n // 10]:
            Image.fromarray(images.reshape(-1, 28, 28)[i]).save(folder / "test" / str(digit) / f"{i:05d}.png")
    return folder


# The two tools.


def their_metrics(home: Path, folder: Path, shards: Path, data: str, amp: bool) -> dict[str, float]:
    """What CLIP_benchmark's command writes."""
    import torch
    from clip_benchmark import cli
    from clip_benchmark.metrics import zeroshot_classification

    def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
        found = output.topk(max(topk), 1, True, True)[1].t()
        correct = found.eq(target.view(1, -1).expand_as(found))
        return [float(correct[:k].reshape(-1).float().sum(0).item()) / len(target) for k in topk]

    zeroshot_classification.accuracy = accuracy
    out = home / "theirs.json"
    cli.run(
        SimpleNamespace(
            dataset=f"wds/{data}",
            dataset_root=str(shards),
            split="test",
            model=f"local-dir:{folder}",
            pretrained="",
            model_type="open_clip",
            model_cache_dir=None,
            task="zeroshot_retrieval" if data in CAPTIONED else "zeroshot_classification",
            amp=amp,
            num_workers=1,  # more would deal the shards out, and mix the batches
            recall_k=list(RECALLS),
            batch_size=BATCH,
            seed=0,
            annotation_file="",
            custom_classname_file=None,
            custom_template_file=None,
            dump_classnames=False,
            dump_templates=False,
            language="en",
            output=str(out),
            verbose=False,
            save_clf=None,
            load_clfs=[],
            skip_existing=False,
            skip_load=False,
            distributed=False,
            wds_cache_dir=None,
        )
    )
    return json.loads(out.read_text())["metrics"]


def our_metrics(home: Path, folder: Path, shards: Path, data: str, amp: bool) -> dict[str, float]:
    """The same numbers of clipib, and `n METRIC` beside each."""
    import clipib

    options = {
        "protocol": "clip_benchmark",
        "precision": "auto" if amp else "fp32",
        "out": home / "ours",
        "cache_dir": home / "cache",
        "batch_size": BATCH,
        "fresh": True,
        "allow_overlap": True,
    }
    if data in CAPTIONED:
        rows = clipib.retrieve(str(folder), f"wds:{shards}", recall_k=RECALLS, **options).rows
    else:
        rows = clipib.zeroshot(str(folder), f"wds:{shards}", **options).rows
    return {r.metric: r.value for r in rows} | {f"n {r.metric}": r.n for r in rows}


# Results.


def finished(results: Path, setting: str) -> Iterator[tuple[str, str, bool]]:
    for row in read(results):
        if row["setting"] == setting:
            yield row["checkpoint"], row["data"], row["precision"] == "amp"


def append(results: Path, rows: list[dict[str, object]]) -> None:
    fresh = not results.exists()
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def read(results: Path) -> list[dict[str, str]]:
    if not results.exists():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def print_table(results: Path, setting: str) -> None:
    """Markdown: every number of both tools, and by how many samples they differ."""
    theirs_of = next((c for c in ("clip_benchmark", "open_clip") for r in read(results)[:1] if c in r), "")
    print(f"| checkpoint | data | precision | metric | {theirs_of} | clipib | samples apart |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: |")
    for row in read(results):
        if row["setting"] == setting:
            theirs, ours = float(row[theirs_of]), float(row["clipib"])
            apart = abs(theirs - ours) * int(row["n"])
            cells = [row[c] for c in ("checkpoint", "data", "precision", "metric")]
            print(f"| {' | '.join(cells)} | {theirs:.6f} | {ours:.6f} | {apart:.0f} |")


if __name__ == "__main__":
    sys.exit(main())

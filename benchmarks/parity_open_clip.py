"""clipib against open_clip's own zero-shot evaluation: `python benchmarks/parity_open_clip.py`.

25 classes of Caltech-101 bear the name of an ImageNet class. Their 250 photographs become a webdataset with ImageNet's
thousand classes; `open_clip_train.zero_shot` evaluates it with `build_zero_shot_classifier`, and clipib under `strict`,
both in float32. A trained `tiny` is asked with all 80 templates; a random ViT-B-32, and `photo`, which knows what it
sees, with the seven of SIMPLE_IMAGENET_TEMPLATES, since open_clip takes a whole context for each of a thousand prompts.
Rows go to results/parity_open_clip.csv.

Its `accuracy` fails on NumPy 2.4 as CLIP_benchmark's does, and is called with the same change.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from parity_clip_benchmark import DATA, append, checkpoint_folder, finished, print_table

RESULTS = Path(__file__).parent / "results" / "parity_open_clip.csv"
RUNS = (("tiny", "openai80"), ("ViT-B-32", "simple7"), ("photo", "simple7"))
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--home", type=Path, help="where data, checkpoints and the store are made, and kept")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_table(options.results, "full")
        return
    with tempfile.TemporaryDirectory() as made:
        home = options.home or Path(made)
        done = {(checkpoint, templates) for checkpoint, templates, _ in finished(options.results, "full")}
        for checkpoint, templates in RUNS:
            if (checkpoint, templates) not in done:
                compare(home, checkpoint, templates, options.results)


def compare(home: Path, checkpoint: str, templates: str, results: Path) -> None:
    import clipib

    spec = checkpoint if checkpoint == "photo" else str(checkpoint_folder(home, checkpoint))
    theirs = their_accuracies(spec, home, templates)
    outcome = clipib.zeroshot(
        spec, f"wds:{shards(home)}", templates=templates, out=home / "ours", cache_dir=home / "cache", fresh=True
    )
    ours = {r.metric: r for r in outcome.rows}
    rows = [
        {"setting": "full", "checkpoint": checkpoint, "data": templates, "precision": "fp32"}
        | {"metric": metric, "open_clip": repr(value), "clipib": repr(ours[metric].value), "n": ours[metric].n}
        for metric, value in theirs.items()
    ]
    append(results, rows)
    for row in rows:
        print(" ".join(map(str, row.values())), flush=True)


def their_accuracies(spec: str, home: Path, templates: str) -> dict[str, float]:
    """open_clip's classifier and its `run`, on the shards as clipib's own transform reads them."""
    import open_clip
    import torch
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
    from open_clip_train import zero_shot

    from clipib.data.load import load_dataset
    from clipib.models.load import load_model

    def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...] = (1,)) -> list[float]:
        found = output.topk(max(topk), 1, True, True)[1].t()
        correct = found.eq(target.view(1, -1).expand_as(found))
        return [float(correct[:k].reshape(-1).float().sum(0).item()) for k in topk]

    zero_shot.accuracy = accuracy
    model = load_model(spec, device="cpu")
    model.module.eval()
    dataset = load_dataset(f"wds:{shards(home)}", need="label")
    pixels = torch.stack([model.preprocess_eval(dataset.images.open(i)) for i in range(len(dataset))])
    labels = torch.from_numpy(dataset.labels)
    batches = list(zip(pixels.split(BATCH), labels.split(BATCH)))
    chosen = OPENAI_IMAGENET_TEMPLATES if templates == "openai80" else SIMPLE_IMAGENET_TEMPLATES
    classifier = open_clip.build_zero_shot_classifier(
        model.module, model.tokenizer, open_clip.IMAGENET_CLASSNAMES, chosen, num_classes_per_batch=10, device="cpu"
    )
    arguments = SimpleNamespace(device="cpu", precision="fp32", batch_size=BATCH)
    top1, top5 = zero_shot.run(model.module, classifier, batches, arguments)
    return {"acc1": top1, "acc5": top5}


def shards(home: Path) -> Path:
    """The photographs whose class ImageNet has, with its thousand class names and 80 templates."""
    import webdataset

    from clipib.data.catalog import CATALOG

    place, entry = home / "shards" / "imagenet25", CATALOG["imagenet1k"]
    if place.exists():
        return place
    index = {name.lower(): i for i, name in enumerate(entry.classnames)}
    folders = sorted((DATA / "caltech101_20" / "test").iterdir())
    named = [(f, index[f.name.lower().replace("_", " ")]) for f in folders if f.name.lower().replace("_", " ") in index]
    pictures = [(path, label) for folder, label in named for path in sorted(folder.iterdir())]
    order = np.random.default_rng(0).permutation(len(pictures))
    (place / "test").mkdir(parents=True)
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, mtime=0) as writer:
        for i in order:
            path, label = pictures[i]
            writer.write({"__key__": f"{i:05d}", "jpg": path.read_bytes(), "cls": str(label)})
    (place / "test" / "0.tar").write_bytes(buffer.getvalue())
    (place / "test" / "nshards.txt").write_text("1\n")
    (place / "classnames.txt").write_text("\n".join(entry.classnames) + "\n")
    (place / "zeroshot_classification_templates.txt").write_text("\n".join(entry.templates) + "\n")
    return place


if __name__ == "__main__":
    sys.exit(main())

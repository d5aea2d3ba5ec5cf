"""Runs written by hand: rows and per-sample lines as `zeroshot` and `retrieve` leave them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from clipib import __version__
from clipib.tasks.results import COLUMNS, SAMPLE_SCOPE, Row, slug, to_csv


def made_row(metric: str, value: float | None, **values) -> Row:
    """A row of data set "d"; what is not given is that of a plain run."""
    blank = dict.fromkeys(COLUMNS, "")
    blank |= dict.fromkeys(("ci_low", "ci_high", "n", "n_ties", "limit"))
    blank |= {"command": "zeroshot", "model": "m", "pretrained": "p", "checkpoint_sha256": "1" * 64}
    blank |= {"dataset": "d", "split": "test", "protocol": "strict", "precision": "fp32", "device": "cpu"}
    blank |= {"data_sha256": "d" * 64, "prompts_sha256": "e" * 64, "n_bad": 0, "seed": 0, "is_main": metric == "acc1"}
    return Row(**{**blank, "clipib_version": __version__, "metric": metric, "value": value, **values})


def made_run(
    path: Path, rows: list[Row], samples: dict[str, list[dict]] | None = None, *, status: str = "complete", **settings
) -> Path:
    """Write a run.

    Args:
        samples: per data set one table of columns for each checkpoint, in the order of the rows.
    """
    path.mkdir(parents=True)
    (path / "results.csv").write_text(to_csv(rows))
    (path / "results.json").write_text(json.dumps({"status": status, "settings": settings}))
    for dataset, tables in (samples or {}).items():
        firsts = {r.checkpoint_sha256: r for r in reversed(rows) if r.dataset == dataset}
        likes = list(firsts.values())[::-1]
        frames = []
        for like, table in zip(likes, tables, strict=True):
            frame = pd.DataFrame(table)
            for column in SAMPLE_SCOPE:
                kind = "Int64" if column in ("seed", "limit") else "string"
                frame[column] = pd.array([getattr(like, column)] * len(frame), dtype=kind)
            frames.append(frame.assign(params=""))
        (path / "samples").mkdir(exist_ok=True)
        pd.concat(frames).to_parquet(path / "samples" / f"{slug(dataset)}.parquet", index=False)
    return path


def classified(target: list[int], predicted: list[int], *, rank: int = 1) -> dict:
    """Per-sample lines of `zeroshot`; a miss has its target at `rank`, from 0."""
    hit = np.equal(target, predicted)
    lines = {"sample_id": [f"{i}.png" for i in range(len(target))], "target": target, "predicted": predicted}
    return {
        **lines,
        "target_rank": np.where(hit, 0, rank),
        "correct": hit,
        "confidence": np.linspace(0.5, 0.9, len(hit)),
    }


def hits(a: str) -> dict:
    """Per-sample lines of two classes from a word of hits "1" and misses "0"; the classes take turns.

    Example:
        >>> hits("10")["predicted"]
        [0, 0]
    """
    target = [i % 2 for i in range(len(a))]
    return classified(target, [t if c == "1" else 1 - t for t, c in zip(target, a, strict=True)])


def share(a: str) -> float:
    return a.count("1") / len(a)


def ranked(captions: list[tuple[str, str, int]], images: list[tuple[str, int]]) -> dict:
    """Per-sample lines of `retrieve`: (image, caption, rank) of each caption, (image, rank) of each image."""
    return {
        "direction": ["text_to_image"] * len(captions) + ["image_to_text"] * len(images),
        "sample_id": [c[0] for c in captions] + [i[0] for i in images],
        "caption": [c[1] for c in captions] + [""] * len(images),
        "rank": [c[2] for c in captions] + [i[1] for i in images],
        "tied": [False] * (len(captions) + len(images)),
    }

"""Miniature webdataset repositories: shards of small pictures in CLIP_benchmark's layout."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(i: int, form: str = "PNG", size=(9, 7)) -> bytes:
    """One plain picture, another for every i below 65,536."""
    out = io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {}
    Image.new("RGB", size, (i % 256, i // 256 % 256, 90)).save(out, form, **options)
    return out.getvalue()


def npy(row) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(row))
    return out.getvalue()


def tar(samples: list[dict[str, bytes]], first: int = 0) -> bytes:
    """One shard of samples (suffix -> bytes), numbered from `first`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, sample in enumerate(samples, start=first):
            for suffix, content in sample.items():
                info = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def repository(
    samples: list[dict[str, bytes]], *, shards: int = 2, split: str = "test", classnames=None, templates=None, kind=""
) -> dict[str, bytes]:
    """path -> bytes of a repository with one split."""
    parts = [list(part) for part in np.array_split(np.arange(len(samples)), shards)]
    files = {f"{split}/{i}.tar": tar([samples[j] for j in p], p[0] if p else 0) for i, p in enumerate(parts)}
    files[f"{split}/nshards.txt"] = str(shards).encode()
    if classnames is not None:
        files["classnames.txt"] = "".join(f"{name}\n" for name in classnames).encode()
    if templates is not None:
        files["zeroshot_classification_templates.txt"] = "".join(f"{t}\n" for t in templates).encode()
    if kind:
        files["dataset_type.txt"] = kind.encode()
    return files


def labelled(labels, start: int = 0) -> list[dict[str, bytes]]:
    """A sample for every label."""
    return [{"png": picture(start + i), "cls": str(y).encode()} for i, y in enumerate(labels)]

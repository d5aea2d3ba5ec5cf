import io

import numpy as np
import pytest
from PIL import Image

from clipib.data import phash
from clipib.data.phash import find_lookalikes, fingerprint, is_blank


def waves(seed, side=90):
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def bits(picture):
    return np.unpackbits(fingerprint(picture).hash)


def test_the_hash_is_that_of_a_naive_cosine_transform():
    picture = waves(0)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    x = np.arange(32)
    low = []
    for total in range(1, 20):
        for u in range(total + 1):
            v = total - u
            low.append(sum(grey[i] @ np.cos(np.pi * (2 * x + 1) * v / 64) * np.cos(np.pi * (2 * i + 1) * u / 64) / (
                np.sqrt(32 if u == 0 else 16) * np.sqrt(32 if v == 0 else 16)) for i in x))  # fmt: skip
    low = np.array(low[:64])
    assert np.array_equal(bits(picture), (low > np.median(low)).astype(np.uint8))


def jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


@pytest.mark.parametrize(
    "change", [lambda p: jpeg(p, 20), lambda p: p.resize((45, 45)), lambda p: jpeg(p.resize((200, 70)), 50)]
)
def test_encoding_and_size_change_a_few_bits_and_other_pictures_many(change):
    for seed in range(20):
        assert (bits(waves(seed)) != bits(change(waves(seed)))).sum() <= phash.MAX_DISTANCE
        assert (bits(waves(seed)) != bits(waves(seed + 1))).sum() > 2 * phash.MAX_DISTANCE


def brute_force(hashes, smalls):
    pairs = []
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            distance = int(np.unpackbits(hashes[i] ^ hashes[j]).sum())
            if distance <= 6 and np.corrcoef(smalls[i], smalls[j])[0, 1] >= 0.95:
                pairs.append((i, j, distance))
    return sorted(pairs, key=lambda p: (p[2], p[1], p[0]))


@pytest.mark.parametrize("n", [1, 7, 600])
def test_pairs_are_those_of_a_loop_over_all(n):
    rng = np.random.default_rng(n)
    centres = rng.integers(0, 256, (n // 5 + 1, 8), dtype=np.uint8)
    which = rng.integers(0, len(centres), n)
    flips = np.packbits(rng.random((n, 64)) < 0.05, axis=1)
    smalls = rng.integers(0, 256, (len(centres), 768))[which] + rng.normal(0, 16, (n, 768))
    smalls = np.clip(smalls, 0, 255).astype(np.uint8)
    hashes = centres[which] ^ flips
    found = find_lookalikes(hashes, smalls)
    assert n < 600 or set(found.distance) > {2, 3, 4, 5, 6}
    assert list(zip(*(c.tolist() for c in found[:3]), strict=True)) == brute_force(hashes, smalls)
    assert found.complete


def test_a_set_of_copies_is_given_up(monkeypatch):
    monkeypatch.setattr(phash, "MAX_PAIRS", 1000)
    smalls = np.tile(np.arange(768, dtype=np.uint16).astype(np.uint8), (500, 1))
    found = find_lookalikes(np.zeros((500, 8), dtype=np.uint8), smalls)
    assert not found.complete and len(found.first) > 1000


@pytest.mark.parametrize("color", [(7, 7, 7), (255, 0, 0)])
def test_a_picture_of_one_colour_is_blank(color):
    assert is_blank(fingerprint(Image.new("RGB", (50, 40), color)).small)
    assert not is_blank(fingerprint(waves(3)).small)

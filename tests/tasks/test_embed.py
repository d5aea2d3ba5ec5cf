import numpy as np
import pandas as pd

from clipib import embed


def test_features_and_tables_are_exported(checkpoint, photo_folder, tmp_path):
    images, texts = embed(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "e", cache_dir=tmp_path / "c")
    features, table = np.load(images.features), pd.read_parquet(images.table)
    assert features.shape == (8, 64) and np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert table["class"].tolist() == ["blue dot"] * 4 + ["red square"] * 4
    assert table["sample_id"][0] == "blue_dot/0.png" and len(table["sha256"][0]) == 64
    assert pd.read_parquet(texts.table)["text"].tolist() == ["a photo of a blue dot.", "a photo of a red square."]
    again = embed(str(checkpoint), f"folder:{photo_folder}", out=tmp_path / "e", cache_dir=tmp_path / "c")
    assert [e.n_encoded for e in again] == [0, 0]

import json

import numpy as np
import pandas as pd
import pytest

from clipib.embeddings.folder import read_embedded, write_embedded
from clipib.errors import UserError


@pytest.fixture
def folder(tmp_path):
    features = {"images": np.eye(3, 4, dtype=np.float32), "texts": np.eye(2, 4, dtype=np.float32)}
    tables = {"images": pd.DataFrame({"sample_id": ["a", "b", "c"]}), "texts": pd.DataFrame({"text": ["x", "y"]})}
    write_embedded(tmp_path, features, tables, {"model": "tiny"})
    return tmp_path


def test_what_is_written_is_read(folder):
    read = read_embedded(folder)
    assert np.array_equal(read.features["texts"], np.eye(2, 4)) and read.tables["images"]["sample_id"][2] == "c"
    assert read.about["model"] == "tiny" and set(read.about["files"]) == {p.name for p in folder.glob("*.[np]*")} - {
        "features.json"
    }


def test_texts_of_an_earlier_run_do_not_stay(folder):
    write_embedded(folder, {"images": np.zeros((1, 4))}, {"images": pd.DataFrame({"sample_id": ["a"]})}, {})
    assert not (folder / "texts.npy").exists() and set(read_embedded(folder).features) == {"images"}


@pytest.mark.parametrize("name", ["images.npy", "images.parquet", "texts.npy", "texts.parquet"])
def test_a_file_that_is_not_the_one_written_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_embedded(folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        read_embedded(folder)


def test_what_is_no_embed_folder_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        read_embedded(folder / "nowhere")
    (folder / "features.json").write_text(json.dumps({"schema": "clipib.features/9"}))
    with pytest.raises(UserError, match="not of the form"):
        read_embedded(folder)
    (folder / "features.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_embedded(folder)
    (folder / "features.json").unlink()
    with pytest.raises(UserError, match="no embed folder.*images.npy"):
        read_embedded(folder)

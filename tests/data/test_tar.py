"""Members of tar files against the standard library's reader."""

import io
import tarfile

import numpy as np
import pytest
import webdataset

from clipib.data.tar import list_members
from clipib.errors import UserError


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["s1", "a/b/s1", "ä ö", "n" * 90 + "/" + "m" * 60, "x" * 120])
def test_members_are_where_tarfile_finds_them(tmp_path, form, name):
    if form == tarfile.USTAR_FORMAT and len(name) == 120:
        pytest.skip("a name that this format cannot hold")
    rng = np.random.default_rng(len(name))
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as archive:
        for suffix, size in (("cls", 1), ("png", 511), ("json", 0), ("txt", 512), ("npy", 1537)):
            info = tarfile.TarInfo(f"{name}.{suffix}")
            info.size, info.mtime = size, 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(rng.bytes(size)))
        directory = tarfile.TarInfo("folder.d")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        link = tarfile.TarInfo("s2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "s1.png"
        if name == "a/b/s1":
            archive.addfile(link)
    with tarfile.open(tmp_path / "0.tar") as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
    assert [tuple(m) for m in list_members(tmp_path / "0.tar")] == expected


def test_the_common_form_needs_no_tarfile(tmp_path, monkeypatch):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        writer.write({"__key__": "s1", "txt": b"a", "cls": b"1"})
    monkeypatch.setattr("clipib.data.tar.tarfile.open", None)
    assert len(list_members(tmp_path / "0.tar")) == 2


@pytest.mark.parametrize("damage", ["hole", "zeros", "cut between two files"])
def test_what_was_lost_is_noticed(tmp_path, damage):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for i in range(6):
            writer.write({"__key__": f"s{i}", "txt": b"a" * 600})
    content = bytearray((tmp_path / "0.tar").read_bytes())
    third = list_members(tmp_path / "0.tar")[2].start - 1536  # where the records of this file begin
    if damage == "hole":
        content[third : third + 1024] = bytes(1024)
    elif damage == "zeros":
        content[:] = bytes(len(content))
        (tmp_path / "0.tar").write_bytes(content)
        assert list_members(tmp_path / "0.tar") == []  # an empty tar; `load_wds` refuses a shard without samples
        return
    else:
        del content[third:]
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match="damaged or cut short"):
        list_members(tmp_path / "0.tar")

"""Tar files read in any order: where each member lies, and its bytes."""

from __future__ import annotations

import mmap
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from clipib.errors import UserError

BLOCK = 512  # bytes, the unit of tar
ZEROS = bytes(BLOCK)


class Member(NamedTuple):
    """A file inside a shard: its bytes lie at [start, start + size)."""

    name: str
    start: int
    size: int


def list_members(shard: Path) -> list[Member]:
    """The files inside an uncompressed tar, in order.

    Raises:
        UserError: when it is no tar, or cut short.
    """
    with shard.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if (members := _plain_members(data, size)) is not None:
                    return members
    members = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                if info.isfile():
                    members.append(Member(info.name, info.offset_data, info.size))
            end = read_end(shard, archive.offset)
            if len(end) < BLOCK or end.strip(b"\0"):
                raise tarfile.ReadError(f"no end mark, or more behind it, at byte {archive.offset:,}")
    except tarfile.TarError as error:
        whole = f"; its last whole file is {members[-1].name}" if members else ""
        raise UserError(
            f"The shard '{shard}' is damaged or cut short ({error}){whole}.", hint="Fetch or export it again."
        ) from error
    return members


def read_end(path: Path, offset: int) -> bytes:
    """What stands where a tar says that it ends: zeros to the end of the file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _plain_members(data: mmap.mmap, size: int) -> list[Member] | None:
    """The files of a tar of the common form: several times faster than `tarfile`, which reads all others.

    Returns:
        None for whatever is not plain: names or sizes in records of their own, links, sparse files, a wrong checksum,
        an end that is missing.
    """
    members, offset = [], 0
    while offset + BLOCK <= size:
        head = data[offset : offset + BLOCK]
        if head == ZEROS:
            return members if not data[offset:].strip(b"\0") else None
        try:
            checksum, length = (int(head[a:b].strip(b"\0 ") or b"0", 8) for a, b in ((148, 156), (124, 136)))
            name = head[:100].split(b"\0", 1)[0].decode("utf-8")
        except ValueError:
            return None
        start, kind = offset + BLOCK, head[156:157]
        if checksum != sum(head) - sum(head[148:156]) + 8 * ord(" ") or start + length > size:
            return None
        if kind == b"x":  # most often a time with fractions, which is of no interest
            if any(key in data[start : start + length] for key in (b" path=", b" size=", b" GNU.", b" hdrcharset=")):
                return None
        elif kind in (b"0", b"\0"):
            if head[257:263] != b"ustar\0" or head[345] != 0:
                return None
            members.append(Member(name, start, length))
        elif kind != b"5":
            return None
        offset = start + -(-length // BLOCK) * BLOCK
    return None


def read_span(path: Path, start: int, size: int) -> bytes:
    """Bytes of a file from `start` on; thread-safe.

    Raises:
        OSError: when the file ends before.
    """
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(size)
    if len(content) != size:
        raise OSError(f"'{path.name}' ends in the middle of a member")
    return content

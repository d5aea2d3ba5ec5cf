"""Plain files over HTTP, for webdataset shards that lie on an ordinary web server."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from clipib.errors import UserError

TRIES, TIMEOUT, BLOCK = 5, 30, 1 << 20


def download(url: str, path: Path, *, advance: Callable[[int], object] = lambda n: None) -> bool:
    """Fetch one file; a connection that breaks is taken up where it broke, also by a later call.

    What is there already is continued only where the server says by ETag or date that the file is still the same.

    Args:
        advance: called with the number of new bytes.

    Returns:
        False where the server says that there is no such file (404).

    Raises:
        UserError: when the server refuses or cannot be reached.
    """
    partial, mark = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.version")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(TRIES):
        version = mark.read_text() if mark.exists() and partial.exists() else ""
        have = partial.stat().st_size if version else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "If-Range": version} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                again = response.status == 206
                expected, got = int(response.headers.get("Content-Length") or -1), 0
                mark.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
                with partial.open("ab" if again else "wb") as file:
                    while block := response.read(BLOCK):
                        file.write(block)
                        got += len(block)
                        advance(len(block))
            if expected >= 0 and got < expected:
                raise http.client.IncompleteRead(b"", expected - got)
            os.replace(partial, path)
            mark.unlink()
            return True
        except urllib.error.HTTPError as error:
            reason: Exception = error
            if error.code == 416:  # the file is shorter now than what was fetched of it
                partial.unlink(missing_ok=True)
            elif error.code == 404:
                return False
            elif error.code < 500 and error.code != 429:
                raise UserError(f"'{url}' cannot be fetched: the server answered {error.code}.") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError, urllib.error.URLError) as error:
            reason = error
        if attempt < TRIES - 1:
            time.sleep(0.2 * 2**attempt)
    raise UserError(f"'{url}' cannot be fetched: {getattr(reason, 'reason', reason)}.", hint="Check the network.")

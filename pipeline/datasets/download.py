"""Files with a known checksum: downloaded when missing, verified whenever they are read.

torchvision knows the addresses and the checksums; reading through `verified` means that no
damaged byte reaches a trial and no pickle but the published one is ever loaded.
"""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipeline.datasets.base import Progress
from pipeline.errors import UserError

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SEC = 30.0  # of silence, not of the whole download


def verified(path: Path, md5: str) -> bytes:
    """The content of a file, if it is the published one.

    Raises:
        UserError: the file is damaged, or is another one.
    """
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(
            "the file is damaged",
            where=str(path),
            rule=f"its MD5 is {md5}; this one's is {found}",
            cure="delete it and run again: it is then unpacked or downloaded anew",
        )
    return content


def fetch(url: str, path: Path, md5: str, progress: Progress) -> None:
    """Downloads a file unless it is there. It appears under its name when complete and verified.

    Raises:
        UserError: no connection, or what came is not the published file.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    cure = (
        f"download {url} by other means and place it at {path}, "
        "or use `data: {kind: digits}`, which needs no download"
    )
    with TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        part = Path(folder, path.name)
        try:
            _download(url, part, progress)
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            raise UserError(f"cannot download {url}: {error}", where=str(path), cure=cure) from None
        try:
            verified(part, md5)
        except UserError as error:
            what = f"what came from {url} is not the published file"
            raise UserError(what, where=str(path), rule=error.rule, cure=cure) from None
        part.replace(path)


def _download(url: str, path: Path, progress: Progress) -> None:
    request = Request(url, headers={"User-Agent": "regsearch"})
    with urlopen(request, timeout=_TIMEOUT_SEC) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length", 0))
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            progress(f"downloading {path.name}", file.tell(), total)

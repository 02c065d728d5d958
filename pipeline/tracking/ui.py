"""MLflow's UI, for this machine alone unless asked otherwise."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from pipeline.errors import UserError

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_EVERYWHERE = ("0.0.0.0", "::")


def server_command(host: str, port: int, allowed: Sequence[str]) -> list[str]:
    """The command that serves the UI and answers only to the names that are listed.

    MLflow's own list allows patterns such as `192.168.*`, which names like `192.168.evil.org`
    match: a page of that name could read and delete runs through the browser of whoever visits it
    (DNS rebinding). Here each name stands with its port.

    Args:
        host: the address to serve on.
        port: the port to serve on.
        allowed: names or addresses by which browsers reach it, besides the loopback's.

    Raises:
        UserError: it would be served to a network without a name that it answers to.
    """
    if host in _EVERYWHERE and not allowed:
        raise UserError(
            f"`--host {host}` serves a network, but no name is allowed",
            where="--host",
            rule="a UI on the network answers only to the names that are listed, against pages "
            "that would use a visitor's browser to reach it",
            cure="add --allow NAME for each name or address in people's address bars",
        )
    own = [] if host in (*_LOOPBACK, *_EVERYWHERE) else [host]
    names = [*_LOOPBACK, *own, *allowed]
    hosts = [name if re.search(r":\d+$", name) else f"{name}:{port}" for name in names]
    origins = [f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
    return [
        *(sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)),
        *("--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)),
    ]

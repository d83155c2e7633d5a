"""Output of the commands, which the names of files and classes cannot control."""

from __future__ import annotations

import sys
from typing import TextIO

from ccnn_geo.text import printable


def write(text: str) -> None:
    """Write lines to standard output."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write lines to standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    lines = "\n".join(map(printable, text.split("\n")))
    encoding = stream.encoding or "utf-8"
    stream.write(lines.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()

"""Output to a terminal, which names of files and classes must not be able to control."""

from __future__ import annotations

import sys

_KEPT = "\n\t"


def printable(text: str) -> str:
    r"""Return text in which control characters and undecodable bytes are written out, as `\x1b`."""
    return "".join(
        each if each.isprintable() or each in _KEPT else each.encode("unicode_escape").decode()
        for each in text
    )


def write(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def complain(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(printable(text) + "\n")

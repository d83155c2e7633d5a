"""Compile the native backend for the CPU of this machine."""

from __future__ import annotations

import argparse
import time

from ccnn_geo.commands.terminal import write
from ccnn_geo.ops.point_backends import native

HELP = "compile the native backend"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments: the command has none."""
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    native.build(verbose=True)
    write(f"Done in {time.perf_counter() - started:.1f} s")
    return 0

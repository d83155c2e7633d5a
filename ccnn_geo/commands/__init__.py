"""Commands of `python -m ccnn_geo`, one module each; no other part of the library imports them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from ccnn_geo.commands import build, export, info, plot, predict, segment, train
from ccnn_geo.commands.terminal import complain

_COMMANDS: dict[str, ModuleType] = {
    "predict": predict,
    "segment": segment,
    "info": info,
    "train": train,
    "export": export,
    "plot": plot,
    "build": build,
}
_EPILOG = """Every command accepts --help, and --debug, which shows the traceback of an error.

exit codes:
  0  success
  1  an error occurred; its description is on standard error
  2  the arguments are invalid
"""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: Arguments after `python -m ccnn_geo`.
    """
    debug = "--debug" in arguments
    try:
        return _run([each for each in arguments if each != "--debug"], debug)
    except BrokenPipeError:
        # The reader of a pipe has stopped; Python would report the error again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if debug:
            raise
        complain(f"error: {error}")
        return 1


def _run(arguments: list[str], debug: bool) -> int:
    if arguments[:1] == ["train"]:
        return train.train(arguments[1:])  # Lightning reads the rest, `--help` included
    options = _parser().parse_args(arguments, argparse.Namespace(debug=debug))
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ccnn_geo",
        description="Continuous convolutional networks for point clouds.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
    return parser

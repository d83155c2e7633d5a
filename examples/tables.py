"""What examples print on the terminal."""

from collections.abc import Sequence
from pathlib import Path


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with its first column aligned left and all others aligned right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    for line in (header, ["-" * width for width in widths], *rows):
        first, *others = zip(line, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print("  ".join(cells).rstrip())


def percent(share: float | None) -> str:
    """Return a fraction as a percentage with two decimals; nothing for None."""
    return "" if share is None else f"{100 * share:.2f} %"


def show_report(folder: Path) -> None:
    """Print where the report of a run is, if there is one.

    Args:
        folder: Folder of the run.
    """
    file = folder / "results.json"
    if file.exists():  # `--trainer.fast_dev_run true` writes none
        print(f"The report is {file}")

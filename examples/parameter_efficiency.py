"""Draw accuracy against parameters (the paper's Fig. 8) from the results of studies.

    python examples/study.py examples/studies/modelnet10.yaml
    python examples/parameter_efficiency.py runs/modelnet10
    python examples/parameter_efficiency.py runs/modelnet10 runs/modelnet40 --output fig8.png

Configurations whose names begin with CCNN are connected by a line for every study; all others are
single points. Error bars are standard deviations over seeds.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ccnn_geo.files import read_json, require_entries
from ccnn_geo.visualization.figures import save_figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", type=Path, help="folders of finished studies")
    parser.add_argument("--output", type=Path, default=Path("parameter_efficiency.png"))
    options = parser.parse_args()
    try:
        studies = [read_study(folder / "study.json") for folder in options.studies]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        print(f"The picture is {draw(studies, options.output)}")
    except (OSError, ValueError) as error:
        sys.exit(f"Expected folders of studies that examples/study.py has finished: {error}")


def read_study(file: Path) -> dict[str, Any]:
    """Read the results of a study.

    Raises:
        ValueError: If the file holds none.
        OSError: If it cannot be read.
    """
    study = read_json(file)
    require_entries(file, study, "title", "configurations")
    for row in study["configurations"].values():
        require_entries(file, row, "parameters", "test", "test_mean", "test_std")
    return study


def draw(studies: list[dict[str, Any]], picture: Path) -> Path:
    """Draw the mean test accuracies of studies, with parameters on a logarithmic axis.

    Returns:
        The file of the picture.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    for study in studies:
        rows = {name: row for name, row in study["configurations"].items() if row["test"]}
        ours = [name for name in rows if name.startswith("CCNN")]
        peers = [name for name in rows if name not in ours]
        for group, style in ((ours, "o-"), *(([name], "s") for name in peers)):
            if group:
                axes.errorbar(
                    [rows[name]["parameters"] for name in group],
                    [100 * rows[name]["test_mean"] for name in group],
                    yerr=[100 * (rows[name]["test_std"] or 0) for name in group],
                    fmt=style,
                    capsize=3,
                    label=f"CCNN, {study['title']}" if group is ours else None,
                )
        for name, row in rows.items():
            axes.annotate(
                name,
                (row["parameters"], 100 * row["test_mean"]),
                xytext=(6, -11),
                textcoords="offset points",
                fontsize=9,
            )
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.15)
    axes.set_xlabel("parameters")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend()
    file = save_figure(figure, picture)
    plt.close(figure)
    return file


if __name__ == "__main__":
    main()

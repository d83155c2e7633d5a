"""Draw accuracy against parameters (the paper's Fig. 8) from the results of studies.

    python examples/study.py examples/studies/modelnet10.yaml
    python examples/parameter_efficiency.py runs/modelnet10
    python examples/parameter_efficiency.py runs/modelnet10 runs/modelnet40 --output fig8.png

Configurations whose names begin with CCNN are connected by a line for every study; all others are
single points. Error bars are standard deviations over seeds.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", type=Path, help="folders of finished studies")
    parser.add_argument("--output", type=Path, default=Path("parameter_efficiency.png"))
    options = parser.parse_args()
    try:
        studies = [json.loads((folder / "study.json").read_text()) for folder in options.studies]
    except (OSError, ValueError) as error:
        sys.exit(f"Expected folders of studies that examples/study.py has finished: {error}")
    draw(studies, options.output)
    print(f"The picture is {options.output}")


def draw(studies: list[dict[str, Any]], picture: Path) -> None:
    """Draw the mean test accuracies of studies, with parameters on a logarithmic axis."""
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
    figure.savefig(picture, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()

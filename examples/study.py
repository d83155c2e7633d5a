"""Train several configurations with several seeds, and report mean and spread.

    python examples/study.py examples/studies/aliasing.yaml
    python examples/study.py examples/studies/aliasing.yaml --jobs 2 --threads 1 --seeds 0 1
    python examples/study.py examples/studies/aliasing.yaml --only "4,16" --data.root clouds.npz
    python examples/study.py examples/studies/aliasing.yaml --table

A study is a YAML file that names an example, the options of all its runs, and the configurations to
compare:

    title: Label smoothing on ModelNet10
    script: modelnet40.py
    seeds: [0, 1, 2]
    options: {config: configs/modelnet10_4_16.yaml, trainer.max_epochs: 10}
    configurations:
      none: {model.label_smoothing: 0}
      "0.1": {model.label_smoothing: 0.1}

A configuration may also name a `script` of its own. Paths of `config` are relative to the examples.
All other arguments of the command are passed to every training.

Runs that are finished are not repeated, and runs that were interrupted continue after their last
completed epoch. The results of every run are in `runs/STUDY/CONFIGURATION/seedN`; `--jobs` runs
train at a time, each on `--threads` cores, and what they print is in `seedN.log` beside. At the
end, a table of all finished runs is printed, `runs/STUDY/study.json` holds it, and `study.png`
shows accuracies and learning curves. `--table` trains nothing. Means over runs of different code
are refused, and so are results of other settings than those of the study and the command.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from tables import percent, show_table

from ccnn_geo.files import read_json, require_entries, save_json
from ccnn_geo.training.settings import comparable_settings, read_settings
from ccnn_geo.visualization.figures import save_figure

EXAMPLES = Path(__file__).parent
_ENTRIES = (
    "code", "epochs", "history", "parameters", "peak_memory_mib", "seconds_per_epoch", "seed",
    "settings", "split_sizes", "test", "val",
)  # fmt: skip
_KEYS = {"title", "script", "seeds", "options", "configurations"}


@dataclass(frozen=True)
class Configuration:
    """One row of a study: a name, the example that trains it, and its options."""

    name: str
    script: str
    options: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the settings that its options and their file ask for, by name."""
        options = dict(self.options)
        file = options.pop("config", None)
        content = {} if file is None else read_settings(EXAMPLES / file)
        return {**comparable_settings(content), **options}

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return re.sub(r"[^A-Za-z0-9_.+-]+", "_", self.name).strip("_.") or "_"


@dataclass(frozen=True)
class Study:
    """Configurations to compare.

    Args:
        name: Name of the study and of its folder.
        title: Heading of the figure.
        seeds: Seeds that every configuration is trained with.
        configurations: The configurations.
    """

    name: str
    title: str
    seeds: list[int]
    configurations: list[Configuration]

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read a study from a YAML file.

        Raises:
            ValueError: If the file is no study; the message names the file.
            OSError: If it cannot be read.
        """
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict) or not isinstance(content.get("configurations"), dict):
            raise ValueError(f"{path}: expected a mapping with `configurations`")
        unknown = sorted(map(str, content.keys() - _KEYS))
        if unknown:
            raise ValueError(f"{path}: expected {sorted(_KEYS)}, got {unknown}")
        seeds = content.get("seeds", [0])
        if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
            raise ValueError(f"{path}: expected `seeds` as a list of whole numbers, got {seeds}")
        shared = content.get("options") or {}
        rows = []
        if not isinstance(shared, dict):
            raise ValueError(f"{path}: expected `options` by name, got {shared!r}")
        for name, own in content["configurations"].items():
            if not isinstance(own, dict | None):
                raise ValueError(f"{path}: expected options of {name!r} by name, got {own!r}")
            options = {**shared, **(own or {})}
            script = options.pop("script", content.get("script"))
            if script is None or not (EXAMPLES / script).is_file():
                raise ValueError(
                    f"{path}: expected the `script` of {name!r} in {EXAMPLES}, got {script}"
                )
            rows.append(Configuration(str(name), script, options))
        study = cls(path.stem, content.get("title", path.stem), seeds, rows)
        if len({row.folder for row in rows}) < len(rows):
            raise ValueError(f"{path}: expected names of configurations that differ in letters")
        return study


@dataclass(frozen=True)
class Run:
    """A training: a configuration with a seed, in a folder of runs."""

    configuration: Configuration
    seed: int
    runs: Path

    @property
    def results(self) -> Path:
        """Path of its results once it is finished."""
        return self.runs / self.configuration.folder / f"seed{self.seed}" / "results.json"

    def report(self, extra: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return its results, or None if there are none.

        Args:
            extra: Further options of all runs, which its settings have to agree with.

        Raises:
            ValueError: If the file is damaged, or the results are those of other settings.
        """
        if not self.results.exists():
            return None
        report = read_json(self.results)
        require_entries(self.results, report, *_ENTRIES)
        for name, value in {**self.configuration.settings(), **given(extra)}.items():
            found = report["settings"].get(name, value)
            if not same(found, value):
                raise ValueError(
                    f"{self.results}: expected results with {name} {value}, got {found}: remove "
                    "the folder to train it again"
                )
        return report

    def command(self, extra: Sequence[str]) -> list[str]:
        """Return the command that trains it."""
        options = []
        for name, value in self.configuration.options.items():
            if name == "config":
                value = EXAMPLES / value
            text = value if isinstance(value, (str, Path)) else json.dumps(value)
            options.append(f"--{name}={text}")
        # The configuration file comes first: later options override it.
        options.sort(key=lambda option: not option.startswith("--config="))
        return [
            sys.executable, str(EXAMPLES / self.configuration.script), *options,
            f"--name={self.configuration.folder}", f"--seed_everything={self.seed}",
            f"--trainer.default_root_dir={self.runs}", *extra,
        ]  # fmt: skip

    def train(self, extra: Sequence[str], threads: int) -> bool:
        """Train it unless it is finished; return whether there are results."""
        try:
            if self.report(extra) is not None:
                return True
        except ValueError as error:
            print(error, flush=True)
            return False
        folder = self.results.parent
        log = folder.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"{self.configuration.name}, seed {self.seed}: see {log}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with log.open("ab") as output:
            ended = subprocess.run(
                self.command([*extra, "--trainer.enable_progress_bar=false"]),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        if self.results.exists():
            return True
        failure = f"ended with status {ended.returncode}, see {log}"
        if ended.returncode == 0:
            failure = f"{folder} holds a run of other settings; remove it"
        print(f"{self.configuration.name}, seed {self.seed}: {failure}", flush=True)
        return False


def main() -> None:
    options, extra = parse_arguments()
    try:
        study = Study.read(options.study)
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(str(error))
    names = [row.name for row in study.configurations]
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        sys.exit(f"Expected `--only` to name some of {names}, got {unknown}")
    chosen = [row for row in study.configurations if not options.only or row.name in options.only]
    runs, seeds = options.runs / study.name, options.seeds or study.seeds
    complete = True
    if not options.table:
        pending = [Run(row, seed, runs) for seed in seeds for row in chosen]
        with ThreadPoolExecutor(options.jobs) as pool:
            # A list: the first failure must not cancel the others.
            complete = all([*pool.map(lambda run: run.train(extra, options.threads), pending)])
    try:
        results = summaries(study, runs, extra)
    except ValueError as error:
        sys.exit(str(error))
    if not results:
        sys.exit(f"There are no finished runs in {runs}")
    show(results)
    save_json(runs / "study.json", {"title": study.title, "configurations": results})
    draw(study.title, results, runs / "study.png")
    print(f"The picture is {runs / 'study.png'}")
    if not complete:
        sys.exit("Not all runs are finished; the same command continues them")


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this script, and those for every training."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("study", type=Path, help="YAML file of the study")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="configurations to train")
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of the seeds of the study")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time")
    parser.add_argument("--threads", type=positive, default=1, help="cores of every run")
    parser.add_argument("--table", action="store_true", help="train nothing")
    return parser.parse_known_args()


def positive(text: str) -> int:
    """Return a whole number above 0 from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def given(options: Sequence[str]) -> dict[str, Any]:
    """Return the settings that options `--NAME=VALUE` or `--NAME VALUE` stand for."""
    settings = {}
    words = [word for option in options for word in option.split("=", 1)]
    for name, value in zip(words, words[1:], strict=False):
        if name.startswith("--"):
            settings[name.removeprefix("--")] = yaml.safe_load(value)
    return settings


def same(found: Any, expected: Any) -> bool:
    """Return whether two settings are the same, as far as their files can tell."""
    if isinstance(found, list) and isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == expected or str(found) == str(expected)


def summaries(study: Study, runs: Path, extra: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Return mean and spread over the finished runs of every configuration that has some.

    Raises:
        ValueError: If runs were trained with different versions of the code, or with other
            settings than those of the study.
    """
    reports = {}
    for row in study.configurations:
        folders = (runs / row.folder).glob("seed*")
        # Folders such as seed0-2 hold runs of other settings.
        seeds = sorted(int(each.name[4:]) for each in folders if each.name[4:].isdecimal())
        found = (Run(row, seed, runs).report(extra) for seed in seeds)
        reports[row.name] = [report for report in found if report is not None]
    versions = {tuple(report["code"]) for found in reports.values() for report in found}
    if len(versions) > 1 or any(len(version) > 1 for version in versions):
        raise ValueError(
            f"Expected runs of one version of the code in {runs}, got "
            f"{sorted(', '.join(version) for version in versions)}: remove the older ones"
        )
    return {name: summary(found) for name, found in reports.items() if found}


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over the runs of one configuration."""
    accuracies = {
        split: [report[split]["accuracy"] for report in reports if report[split] is not None]
        for split in ("val", "test")
    }
    return {
        "parameters": reports[0]["parameters"],
        "seeds": [report["seed"] for report in reports],
        "epochs": [report["epochs"] for report in reports],
        **accuracies,
        **{f"{split}_mean": fmean(x) if x else None for split, x in accuracies.items()},
        **{f"{split}_std": stdev(x) if len(x) > 1 else None for split, x in accuracies.items()},
        "minutes": fmean(
            (report["seconds_per_epoch"] or 0) * report["epochs"] / 60 for report in reports
        ),
        "peak_memory_mib": max(max(report["peak_memory_mib"].values()) for report in reports),
        "curves": [
            [epoch.get("val/accuracy") for epoch in report["history"]] for report in reports
        ],
        "code": reports[0]["code"],
        "split_sizes": reports[0]["split_sizes"],
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the table of a study."""
    show_table(
        ["configuration", "parameters", "seeds", "test", "std", "validation", "std", "min", "MiB"],
        [
            [
                name,
                f"{result['parameters']:,}",
                str(len(result["seeds"])),
                *(
                    "" if result[key] is None else percent(result[key])
                    for key in ("test_mean", "test_std", "val_mean", "val_std")
                ),
                f"{result['minutes']:.0f}",
                f"{result['peak_memory_mib']:.0f}",
            ]
            for name, result in results.items()
        ],
    )


def draw(title: str, results: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw the accuracies with their standard deviations, and the learning curves."""
    import matplotlib.pyplot as plt

    split = "test" if all(result["test"] for result in results.values()) else "val"
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 1.6 + 0.4 * max(5, len(results))), layout="constrained"
    )
    for row, (name, result) in enumerate(results.items()):
        colour = f"C{row % 10}"
        accuracies = [100 * accuracy for accuracy in result[split]]
        left.plot(accuracies, [row] * len(accuracies), "o", color=colour, alpha=0.4)
        left.errorbar(
            fmean(accuracies) if accuracies else float("nan"),
            row,
            xerr=100 * (result[f"{split}_std"] or 0),
            fmt="|",
            color=colour,
            capsize=4,
        )
        for curve in result["curves"]:
            points = [(epoch + 1, 100 * y) for epoch, y in enumerate(curve) if y is not None]
            label = name if curve is result["curves"][0] else None
            right.plot(*zip(*points, strict=True), color=colour, alpha=0.7, label=label)
    left.set_yticks(range(len(results)), list(results))
    left.invert_yaxis()
    left.set_xlabel(f"{'test' if split == 'test' else 'validation'} accuracy in %")
    right.set_xlabel("epoch")
    right.set_ylabel("validation accuracy in %")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    save_figure(figure, picture)
    plt.close(figure)


if __name__ == "__main__":
    main()

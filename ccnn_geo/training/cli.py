"""Experiments on the command line: a folder for each run, resuming, and a report at the end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from ccnn_geo.files import atomic_write, check_name, save_json
from ccnn_geo.training.checkpoints import AtomicCheckpointIO, check_checkpoint
from ccnn_geo.training.report import RunReport
from ccnn_geo.visualization.figures import draw_run

__all__ = ["ExperimentCLI", "PointCloudCLI", "SignalCLI"]

# What a resumed run may do differently, because its numbers do not depend on it.
_FREE_SETTINGS = {"config", "name", "data.num_workers", "trainer.enable_progress_bar"}
# A resumed run finds its own files, data in memory need no workers, and there may be no validation.
_EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists",
    ".*does not have many workers",
    "Total length of `list` across ranks is zero",
    ".*could not find the monitored key",
)


class ExperimentCLI(LightningCLI):
    """A `LightningCLI` without subcommands, which trains, tests once and writes a report.

    A run has a folder to itself, `runs/NAME/seedN`, with its settings, its checkpoints (`best.ckpt`
    by validation accuracy, `last.ckpt` after every epoch), its log and, once it is finished,
    `results.json`. Started again with the same settings, an unfinished run goes on after its last
    completed epoch. Other settings, or another run after a finished one, get the next free folder,
    `runs/NAME/seedN-2` and so on, so that nothing is ever overwritten.

    `--trainer.default_root_dir` takes the place of `runs`, and `--name` that of the stem of the
    configuration file, or of the data set's name where there is none.

    Args:
        model_class: The LightningModule; it logs `val/accuracy`, and keeps the confusion matrix of
            its last test in `confusion`.
        datamodule_class: The LightningDataModule, with arguments `name` and `seed` and attributes
            `split_sizes` and `class_names`.
        description: What `--help` begins with.
        max_epochs: Epochs where nothing else is said.
    """

    folder: Path

    def __init__(
        self,
        model_class: type[pl.LightningModule],
        datamodule_class: type[pl.LightningDataModule],
        *,
        description: str | None = None,
        max_epochs: int = 200,
    ) -> None:
        self.report = RunReport()
        super().__init__(
            model_class,
            datamodule_class,
            run=False,
            seed_everything_default=0,
            trainer_defaults={"max_epochs": max_epochs, "log_every_n_steps": 1},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=_SaveSettings,
            save_config_kwargs={"save_to_log_dir": False},
            parser_kwargs={"description": description},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run, and let the data follow the seed of the run."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Find the folder of the run."""
        configs = self.config.config
        name = self.config.name
        if name is None:
            name = Path(str(configs[-1])).stem if configs else self.config.data.name
        try:
            check_name("name", name)
        except ValueError as error:
            self.parser.error(str(error))
        runs = Path(self.config.trainer.default_root_dir or "runs")
        self.folder = self._find_folder(runs / name)
        rank_zero_info(f"The folder of this run is {self.folder}")

    def instantiate_classes(self) -> None:
        """Make data, model and trainer; what is wrong with their arguments is a usage error."""
        try:
            super().instantiate_classes()
        except (OSError, ValueError) as error:
            # What a linked argument is computed from fails inside an error of the parser's own.
            self.parser.error(str(error.__cause__ or error))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make a trainer that keeps everything in the run's folder."""
        checkpoint = partial(ModelCheckpoint, self.folder, enable_version_counter=False)
        callbacks: list[Callback] = [self.report]
        if self.config.trainer.enable_checkpointing is not False:
            callbacks.append(checkpoint("best", monitor="val/accuracy", mode="max"))
            callbacks.append(checkpoint("last", save_on_train_epoch_end=True))
        if self.config.trainer.plugins is None:
            kwargs["plugins"] = [AtomicCheckpointIO()]
        if self.config.trainer.enable_progress_bar is not False:
            callbacks.append(_ProgressBar())
        self.trainer_defaults["callbacks"] = callbacks
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = CSVLogger(self.folder, name="log")
        return super().instantiate_trainer(default_root_dir=str(self.folder), **kwargs)

    def run(self) -> dict[str, Any]:
        """Train, take the best epoch, test it, and write the report.

        Returns:
            The content of `results.json`.
        """
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
            if last.exists():
                rank_zero_info(f"Resuming from {last}; without the folder, the run begins anew")
                try:
                    check_checkpoint(last)
                except ValueError as error:
                    self.parser.error(str(error))
            self.trainer.fit(
                self.model,
                self.datamodule,
                ckpt_path=last if last.exists() else None,
                weights_only=True,
            )
            summary = self.report.summary()
            checkpoint = next((path for path in (best, last) if path.exists()), None)
            scores = self._evaluate(checkpoint)
        results = {
            "name": self.folder.parent.name,
            "data_set": self.config.data.name,
            "split_sizes": self.datamodule.split_sizes,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "seed": self.config.seed_everything,
            **scores,
            "classes": self.datamodule.class_names,
            "confusion": self.model.confusion,
            **summary,
            "settings": self._settings(),
        }
        if self.trainer.is_global_zero and not self.config.trainer.fast_dev_run:
            save_json(self.folder / "results.json", results)
            if find_spec("matplotlib") is not None:
                draw_run(self.folder, results)
        return results

    def _evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        """Measure the scores of a checkpoint on the validation and the test split."""
        scores: dict[str, Any] = {}
        measures = {"val": self.trainer.validate, "test": self.trainer.test}
        for split, measure in measures.items():
            if self.datamodule.split_sizes[split] == 0:
                scores[split] = None
                continue
            measured = measure(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=checkpoint,
                verbose=False,
                weights_only=True,
            )
            # Without batches, as `limit_test_batches: 0` asks for, nothing is measured.
            metrics = measured[0] if measured else {}
            scores[split] = {
                name.removeprefix(f"{split}/"): x for name, x in metrics.items()
            } or None
        return scores

    def _find_folder(self, parent: Path) -> Path:
        """Return the first folder that is new, or holds an unfinished run of these settings."""
        settings = self._settings()
        for number in count(1):
            suffix = "" if number == 1 else f"-{number}"
            folder = parent / f"seed{self.config.seed_everything}{suffix}"
            file = folder / "config.yaml"
            if not file.exists():
                break
            unfinished = not (folder / "results.json").exists()
            if unfinished and _read_settings(file) == settings:
                break
        return folder

    def _settings(self) -> dict[str, Any]:
        """Return what the numbers depend on, by its name on the command line."""
        return dict(_flatten(yaml.safe_load(self.parser.dump(self.config))))


class PointCloudCLI(ExperimentCLI):
    """An `ExperimentCLI` whose data say how many features go into the model, and classes out.

    See `ExperimentCLI` for the arguments. `links` names the arguments of the model that the data
    decide on, each with the attribute of the data module that it is taken from.
    """

    links: ClassVar = {"in_channels": "num_features", "num_classes": "num_classes"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of an experiment, and link the model to the data."""
        super().add_arguments_to_parser(parser)
        for target, attribute in self.links.items():
            parser.link_arguments(
                "data",
                f"model.{target}",
                compute_fn=partial(_read, attribute=attribute),
                apply_on="instantiate",
            )


class SignalCLI(PointCloudCLI):
    """A `PointCloudCLI` whose data also say on what grids the network is to work.

    The data module has `dim` and `size` too: the number of their axes, and of the cells along each.
    """

    links: ClassVar = {**PointCloudCLI.links, "dim": "dim", "size": "size"}


def _read(data: Any, *, attribute: str) -> Any:
    data.setup()
    return getattr(data, attribute)


class _SaveSettings(SaveConfigCallback):
    """Saves the settings in the run's folder, where the next start looks for them."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "config.yaml") as file:
            file.write(self.parser.dump(self.config).encode())


class _ProgressBar(RichProgressBar):
    """Lightning's bar without the number of the log."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _read_settings(file: Path) -> dict[str, Any] | None:
    """Return the settings of an earlier run, or None if its file is damaged."""
    try:
        settings = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return dict(_flatten(settings)) if isinstance(settings, dict) else None


def _flatten(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = prefix + key
        if name in _FREE_SETTINGS:
            continue
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value

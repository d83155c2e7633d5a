"""Experiments on the command line: a folder for each run, resuming, and a report at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import nn

from ccnn_geo.files import check_name, save_json
from ccnn_geo.nn import CCNN
from ccnn_geo.training.checkpoints import (
    AtomicCheckpointIO,
    FolderCheckpoint,
    check_checkpoint,
    names_best,
)
from ccnn_geo.training.folders import claim_folder, find_folder
from ccnn_geo.training.parser import ExperimentParser
from ccnn_geo.training.report import ConfusionMatrix, RunReport
from ccnn_geo.training.settings import comparable_settings
from ccnn_geo.visualization.figures import draw_run

__all__ = [
    "ExperimentCLI",
    "PointCloudCLI",
    "RegressionCLI",
    "SegmentationCLI",
    "SignalCLI",
]

# A resumed run finds its own files, data in memory need no workers, and there may be no validation.
_EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists",
    ".*does not have many workers",
    "Total length of `list` across ranks is zero",
    ".*could not find the monitored key",
)
# Arguments that follow from the data, and those that YAML cannot express.
_NOT_SETTINGS = {
    "in_channels", "out_channels", "dim", "size", "spacing", "num_embeddings", "pairs", "block",
    "kernel",
}  # fmt: skip


def _attribute(name: str) -> Callable[[Any], Any]:
    """Return a function of an attribute of data modules, None for those without it."""

    def value(data: Any) -> Any:
        data.setup()
        return getattr(data, name, None)

    value.__name__ = name  # `--help` shows it
    return value


class ExperimentCLI(LightningCLI):
    """A `LightningCLI` without subcommands that trains, tests once and writes a report.

    Beside Lightning's groups `trainer`, `model` and `data`, there is a group `network`. The network
    is made for the data, and handed to the LightningModule as its argument `network`.

    Every run has a folder, `runs/NAME/seedN`, which contains its settings, its checkpoints
    (`best.ckpt` by validation accuracy, `last.ckpt` after every epoch), its log and, at the end,
    `results.json`. A run that was interrupted continues after its last completed epoch if it is
    started again with the same settings. Runs with other settings, and runs after a finished one,
    get the next free folder, `runs/NAME/seedN-2` and so on; nothing is overwritten. While a run is
    using a folder, starting the same run again is an error.

    `--trainer.default_root_dir` replaces `runs`. `--name` replaces NAME, which is by default the
    name of the configuration file, or of the data set if there is none.

    Configurations are code: a `class_path` in a YAML file imports any module on the path. Run only
    configurations that you trust.

    Args:
        model_class: The LightningModule, with an argument `network` and those of `links`. It logs
            `val/MONITOR`, where MONITOR is its attribute `monitor`; if the data have classes, its
            `test_step` returns the logits.
        datamodule_class: The LightningDataModule, with arguments `name` and `seed` and attributes
            `split_sizes` and, if the data have classes, `class_names` and `num_classes`.
        description: First sentence of `--help`.
        max_epochs: Default number of epochs.
    """

    links: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"num_classes": _attribute("num_classes")}
    """Arguments of the model that follow from the data module: how to compute each."""

    folder: Path
    confusion: ConfusionMatrix | None

    def __init__(
        self,
        model_class: type[pl.LightningModule],
        datamodule_class: type[pl.LightningDataModule],
        *,
        description: str | None = None,
        max_epochs: int = 200,
    ) -> None:
        self.report = RunReport()
        with ExitStack() as self._claim:
            super().__init__(
                model_class,
                datamodule_class,
                run=False,
                seed_everything_default=0,
                trainer_defaults={"max_epochs": max_epochs, "log_every_n_steps": 1},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                save_config_callback=None,
                parser_class=ExperimentParser,
                parser_kwargs={"description": description},
            )
            self._claim = self._claim.pop_all()  # until the end of `run`

    def add_network_arguments(self, group: Any) -> None:
        """Add the arguments of the network, `--network.NAME`, to a group of the parser."""
        raise NotImplementedError

    def make_network(self, data: Any) -> nn.Module:
        """Make the network from `self.config.network` for a data module that is set up."""
        raise NotImplementedError

    def network_arguments(self) -> dict[str, Any]:
        """Return the arguments of a `CCNN` from `self.config.network`."""
        arguments = self.config.network.as_dict()
        return {**arguments, "block": CCNN.argument_classes[arguments["block"]]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the name of the run and the network, and link the data with the other groups."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run.")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        group = parser.add_argument_group("The network")
        self.add_network_arguments(group)
        for argument, compute in {"network": self._network, **self.links}.items():
            parser.link_arguments(
                "data", f"model.{argument}", compute_fn=compute, apply_on="instantiate"
            )

    def before_instantiate_classes(self) -> None:
        """Find the folder of the run, and keep other processes out of it."""
        problem = _trainer_problem(self.config.trainer)
        if problem:
            self.parser.error(problem)
        files = [path for path in self.config.config or () if path is not None]
        name = self.config.name
        if name is None:
            name = Path(str(files[-1])).stem if files else self.config.data.name
        try:
            check_name("name", name)
        except ValueError as error:
            self.parser.error(str(error))
        runs = Path(self.config.trainer.default_root_dir or "runs")
        first, config = runs / name / f"seed{self.config.seed_everything}", self._dumped()
        self.folder = rank_zero_only(self._claimed_folder)(first, config) or find_folder(
            first, config
        )
        rank_zero_info(f"The folder of this run is {self.folder}")

    def instantiate_classes(self) -> None:
        """Make data, network, model and trainer; errors in their arguments are usage errors."""
        try:
            super().instantiate_classes()
        except (MisconfigurationException, OSError, ValueError) as error:
            # The parser wraps errors of the functions that links are computed by.
            self.parser.error(str(error.__cause__ or error))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make a trainer that keeps everything in the run's folder."""
        self.confusion = None
        callbacks: list[Callback] = [self.report]
        if hasattr(self.datamodule, "num_classes"):
            self.confusion = ConfusionMatrix(self.datamodule.num_classes)
            callbacks.append(self.confusion)
        checkpoint = partial(FolderCheckpoint, self.folder, enable_version_counter=False)
        if self.config.trainer.enable_checkpointing is not False:
            monitor = f"val/{self.model.monitor}"
            callbacks.append(checkpoint("best", monitor=monitor, mode=self.model.monitor_mode))
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
        """Train, evaluate the best epoch, and write the report.

        Returns:
            The content of `results.json`.
        """
        with self._claim, warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            last, best = self.folder / "last.ckpt", self.folder / "best.ckpt"
            resumed = last if last.exists() else None
            if resumed is not None:
                rank_zero_info(f"Resuming from {last}; remove the folder to start anew")
                self._check_checkpoints(path for path in (last, best) if path.exists())
                if not best.exists() and names_best(last):
                    self.parser.error(
                        f"{best}: expected the best checkpoint so far, which {last} names, got "
                        "none; remove the folder to train from the start"
                    )
            try:
                self.trainer.fit(self.model, self.datamodule, ckpt_path=resumed, weights_only=True)
            except MisconfigurationException as error:
                self.parser.error(str(error))
            summary = self.report.summary()
            checkpoint = next((path for path in (best, last) if path.exists()), None)
            results = {
                "name": self.folder.parent.name,
                "data_set": self.config.data.name,
                "split_sizes": self.datamodule.split_sizes,
                "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
                "seed": self.config.seed_everything,
                "monitor": self.model.monitor,
                **self.evaluate(checkpoint),
                "classes": getattr(self.datamodule, "class_names", None),
                **summary,
                "settings": comparable_settings(yaml.safe_load(self._dumped())),
            }
            if self.trainer.is_global_zero and not self.config.trainer.fast_dev_run:
                save_json(self.folder / "results.json", results)
                if find_spec("matplotlib") is not None:
                    draw_run(self.folder, results)
        return results

    def evaluate(self, checkpoint: Path | None) -> dict[str, Any]:
        """Evaluate a checkpoint on the validation and the test split.

        Args:
            checkpoint: The checkpoint, or None for the present weights.

        Returns:
            The metrics by name as `val` and `test`, None for those that were not measured, and the
            confusion matrix of the test as `confusion`, None if the data have no classes.
        """
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
            # Nothing is measured without batches, for example with `limit_test_batches: 0`.
            metrics = measured[0] if measured else {}
            scores[split] = {
                name.removeprefix(f"{split}/"): x for name, x in metrics.items()
            } or None
        return {**scores, "confusion": self.confusion and self.confusion.counts}

    def _claimed_folder(self, first: Path, config: str) -> Path:
        try:
            return self._claim.enter_context(claim_folder(first, config))
        except TimeoutError as error:
            self.parser.error(
                f"{error}, which runs with the same settings; wait until it ends, or give this run "
                "another --name"
            )
        except (OSError, ValueError) as error:
            self.parser.error(str(error))

    def _network(self, data: Any) -> nn.Module:
        data.setup()
        return self.make_network(data)

    def tested(self, loader: Any) -> dict[str, float]:
        """Test the present weights on further samples, and return the metrics by name.

        Args:
            loader: Loader of the samples.

        Returns:
            The metrics without `test/`; empty if nothing was measured, as with
            `limit_test_batches: 0`.
        """
        measured = self.trainer.test(self.model, loader, verbose=False)
        metrics = measured[0] if measured else {}
        return {name.removeprefix("test/"): value for name, value in metrics.items()}

    def _check_checkpoints(self, paths: Iterable[Path]) -> None:
        try:
            for path in paths:
                check_checkpoint(path, self.model)
        except ValueError as error:
            self.parser.error(str(error))

    def _dumped(self) -> str:
        return self.parser.dump(self.config)


def _trainer_problem(trainer: Any) -> str:
    """Return what is wrong with settings of the trainer, if anything is."""
    if trainer.max_steps != -1:
        return (
            "Expected `trainer.max_epochs`, because runs continue after whole epochs, got "
            f"`trainer.max_steps` {trainer.max_steps}"
        )
    least = {"max_epochs": 0, "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1}
    for name, minimum in least.items():
        value = trainer[name]
        if value is not None and value < minimum:
            return f"Expected `trainer.{name}` of at least {minimum}, got {value}"
    if trainer.limit_train_batches == 0:
        return "Expected `trainer.limit_train_batches` above 0, got 0"
    if trainer.precision in ("16", 16, "16-true"):
        return (
            "Expected `trainer.precision` 16-mixed, bf16-mixed, 32-true or 64-true, got "
            f"{trainer.precision}: half precision alone does not hold the norms of batches"
        )
    return ""


class PointCloudCLI(ExperimentCLI):
    """An `ExperimentCLI` that trains a `CCNN` on point clouds.

    The data module has attributes `num_features` and `dim`. See `ExperimentCLI` for the arguments.
    """

    def add_network_arguments(self, group: Any) -> None:
        """Add the arguments of `CCNN`."""
        _add_ccnn_arguments(group)

    def make_network(self, data: Any) -> nn.Module:
        """Make a `CCNN`."""
        arguments = self.network_arguments()
        return CCNN(data.num_features, data.num_classes, dim=data.dim, **arguments)


class SegmentationCLI(ExperimentCLI):
    """An `ExperimentCLI` that trains a `CCNN` to label every point.

    The data module has attributes `num_features`, `dim`, `class_counts` and, for objects of several
    categories, `parts`. See `ExperimentCLI` for the arguments.
    """

    links: ClassVar = {
        **ExperimentCLI.links,
        "class_counts": _attribute("class_counts"),
        "parts": _attribute("parts"),
    }

    def add_network_arguments(self, group: Any) -> None:
        """Add the arguments of `CCNN` but the readout."""
        _add_ccnn_arguments(group, skip={"readout"})

    def make_network(self, data: Any) -> nn.Module:
        """Make a `CCNN` without a readout."""
        arguments = self.network_arguments()
        return CCNN(data.num_features, data.num_classes, dim=data.dim, readout=None, **arguments)


class RegressionCLI(ExperimentCLI):
    """An `ExperimentCLI` that trains a `CCNN` to predict numbers at points, or one set per cloud.

    The data module has attributes `num_features`, `num_targets`, `dim`, `target_mean`,
    `target_scale` and `per_point`. See `ExperimentCLI` for the arguments.
    """

    links: ClassVar = {
        name: _attribute(name) for name in ("num_targets", "target_mean", "target_scale")
    }

    def add_network_arguments(self, group: Any) -> None:
        """Add the arguments of `CCNN`."""
        _add_ccnn_arguments(group)

    def make_network(self, data: Any) -> nn.Module:
        """Make a `CCNN`, without a readout if there are numbers at every point."""
        arguments = self.network_arguments()
        if data.per_point:
            arguments["readout"] = None
        return CCNN(data.num_features, data.num_targets, dim=data.dim, **arguments)


class SignalCLI(ExperimentCLI):
    """An `ExperimentCLI` that trains a `CCNN` on signals on grids, or on the cells as points.

    Token numbers are embedded, unless `--network.embedding false` passes them on as one channel.

    The data module has attributes `num_features`, `num_embeddings`, `pairs` and `size`. See
    `ExperimentCLI` for the arguments.
    """

    def add_network_arguments(self, group: Any) -> None:
        """Add the arguments of `CCNN.for_grid`, and the arguments of `CCNN` that it passes on."""
        names = group.add_method_arguments(
            CCNN, "for_grid", "network", as_group=False, skip=_NOT_SETTINGS
        )
        passed = {name.removeprefix("network.") for name in names}
        _add_ccnn_arguments(group, skip={"extent", *passed})
        group.add_argument(
            "--network.embedding",
            type=bool,
            default=True,
            help="Embed token numbers, if the data are tokens.",
        )

    def make_network(self, data: Any) -> nn.Module:
        """Make a `CCNN` for grids of the data's size."""
        arguments = self.network_arguments()
        embedding = arguments.pop("embedding")
        return CCNN.for_grid(
            data.num_features,
            data.num_classes,
            size=data.size,
            num_embeddings=data.num_embeddings if embedding else None,
            pairs=data.pairs,
            **arguments,
        )


class _ProgressBar(RichProgressBar):
    """Lightning's bar without the number of the log."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _add_ccnn_arguments(group: Any, *, skip: Set[str] = frozenset()) -> None:
    """Add the arguments of `CCNN`, with the published CCNN 4,16 as the default."""
    group.add_class_arguments(
        CCNN, "network", as_group=False, instantiate=False, skip=_NOT_SETTINGS | skip
    )
    group.add_argument(
        "--network.block",
        choices=[*CCNN.argument_classes],
        default="CCNNBlock",
        help="Class of the residual blocks.",
    )
    group.set_defaults({"network.hidden_channels": 16, "network.kernel_channels": 8})

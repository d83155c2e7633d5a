"""Train a CCNN to predict numbers at points: from the shape of a surface, or from other points.

    python examples/regression.py --data.root my/surfaces --data.target "[pressure]" \\
        --data.features "[normal]"
    python examples/regression.py --data.name sphere --data.root stations.npz \\
        --data.target "[temp_c]" --data.given_share 0.7 --data.radius 0.1

A folder of surfaces has files with the numbers as attributes (ply, npz, ...) in `train`, `test`
and, optionally, `val`. Points on the globe are in one .npz file, see `FieldDataModule`: the
network learns to predict some of the numbers from the others, wherever they are, and is tested on
points whose numbers it has not seen.
"""

from pytorch_lightning.cli import LightningArgumentParser
from tables import show_report

from ccnn_geo.datasets import FieldDataModule
from ccnn_geo.training.cli import RegressionCLI
from ccnn_geo.training.regressor import CCNNRegressor

DEFAULTS = {
    "trainer.max_epochs": 30,
    "network.hidden_channels": 32,
    "network.num_blocks": 3,
    "network.kernel_channels": 16,
    "network.omega_0": 2.0,
    "network.window_width": 0.2,
    "network.num_neighbors": 32,
    "model.learning_rate": 0.01,
    "model.warmup_epochs": 2,
}


class FieldCLI(RegressionCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults(DEFAULTS)


def main() -> None:
    description = "Train a CCNN to predict numbers at points."
    cli = FieldCLI(CCNNRegressor, FieldDataModule, description=description)
    results = cli.run()
    if not cli.trainer.is_global_zero:
        return
    show_report(cli.folder)
    line = f"{results['parameters']:,} parameters"
    if results["test"] is not None:
        spread = ", ".join(f"{scale:.3g}" for scale in cli.datamodule.target_scale)
        line += ", test {mae:.3g} mean absolute error, {rmse:.3g} RMSE, R2 {r2:.3f}".format(
            **results["test"]
        )
        line += f", where the training numbers have a deviation of {spread}"
    print(line)


if __name__ == "__main__":
    main()

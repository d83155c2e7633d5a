"""Train a CCNN on ten spoken words, then test it at sampling rates other than that of training.

    python examples/speech_commands.py
    python examples/speech_commands.py --data.features mfcc --data.split official
    python examples/speech_commands.py --config examples/configs/speech_commands_small.yaml
    python examples/speech_commands.py --data.subsample 2 --data.rescale false --data.root my/clips

Without a configuration, a small network is trained on raw audio, 16,000 samples a clip.
`--data.features mfcc` selects 20 cepstral coefficients every 100 samples, which need librosa:
pip install 'ccnn_geo[audio]'.

The official archive of Speech Commands v0.02 is downloaded to `data/speech_commands`, unless
`--data.root` is a folder that holds it, extracted or not, or an .npz file of clips.

At the end, the same weights are tested on all samples, on every second and on every fourth one:
with kernels that are rescaled to the distance of the samples, and with kernels that are not, like
discrete ones. `--data.subsample 2` tests the run itself on every second sample. Clips are not
filtered before they are subsampled.
"""

from signals import ResolutionsCLI, show_resolutions, show_results

from ccnn_geo.datasets import SpeechCommandsDataModule
from ccnn_geo.training.classifier import CCNNClassifier


def main() -> None:
    description = "Train a CCNN to classify spoken words and test it at other sampling rates."
    cli = ResolutionsCLI(CCNNClassifier, SpeechCommandsDataModule, description=description)
    results = cli.run()
    if cli.trainer.is_global_zero:
        show_results(cli, results, "clips")
        show_resolutions(results["resolutions"])


if __name__ == "__main__":
    main()

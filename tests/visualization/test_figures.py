"""Pictures: that they show what is there, and can be written without a screen."""

import copy

import numpy as np
import pytest
import torch

from ccnn_geo import CCNN, CKConvMP
from ccnn_geo.visualization.figures import (
    cube_faces,
    draw_run,
    initial_outputs,
    kernel_reach,
    kernel_values,
    plot_confusion,
    plot_initialization,
    plot_kernels,
    plot_learning_curves,
    plot_voxels,
    save_figure,
)
from datasets_helpers import open3d

SMALL = {"kernel_channels": 4, "omega_0": 1.0, "num_neighbors": 16}


def conv(dim: int, **options) -> CKConvMP:
    torch.manual_seed(0)
    return CKConvMP(3, 4, dim=dim, **{**SMALL, "window_width": 0.2, **options})


def picture(figure, path) -> np.ndarray:
    """Write a figure and read it back."""
    image = pytest.importorskip("matplotlib.image", reason="the extra `viz` is missing")
    save_figure(figure, path / "figure.png")
    return image.imread(path / "figure.png")


@pytest.fixture(autouse=True)
def _matplotlib(request):
    if request.cls is None or request.cls.__name__.startswith("TestPlot"):
        pytest.importorskip("matplotlib", reason="the extra `viz` is missing")


class TestKernelValues:
    @pytest.mark.parametrize(
        ("dim", "options"),
        [
            (1, {}),
            (1, {"causal": True}),
            (2, {"extent": (1.0, 3.0), "window_width": (0.1, 0.3)}),
            (3, {"separable": False}),
        ],
    )
    def test_they_are_what_the_layer_convolves_with(self, dim, options):
        """An impulse on a point makes the kernel appear around it."""
        layer = conv(dim, **options)
        values = kernel_values(layer, 5, reach=0.4)
        axes = [torch.linspace(-0.4, 0.0 if layer.causal else 0.4, 5)] * dim
        offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        sources = offsets * torch.tensor(layer.extent)
        targets = torch.zeros(len(offsets), dim)
        edges = torch.arange(len(offsets)).repeat(2, 1)
        found = []
        for channel in range(3):
            x = torch.zeros(len(offsets), 3)
            x[:, channel] = 1.0
            twin = copy.deepcopy(layer)
            twin.mixing = None
            with torch.no_grad():
                twin.bias.zero_()
                found.append(twin(x, (sources, targets), edges))
        stacked = torch.stack(found)  # one per input channel: [3, points, channels out]
        expected = stacked.diagonal(dim1=0, dim2=2) if layer.separable else stacked.permute(1, 2, 0)
        expected = expected.flatten(1).T.reshape(values.shape)
        torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-4)

    def test_reach_follows_the_window_up_to_the_support(self):
        assert kernel_reach(conv(3)) == pytest.approx(0.6)
        assert kernel_reach(conv(3, window_width=0.9)) == 1.0
        assert kernel_reach(conv(1, causal=True)) == pytest.approx(0.3)


class TestPlotKernels:
    @pytest.mark.parametrize(
        ("dim", "panels"), [(1, 1), (2, 2), (3, 2 * 3)], ids=["lines", "images", "slices"]
    )
    def test_draws_every_number_of_dimensions(self, tmp_path, dim, panels):
        figure = plot_kernels(conv(dim), channels=2, slices=3)
        images = [axis.images[0] for axis in figure.axes if axis.images]
        assert len(images) == panels
        assert picture(figure, tmp_path).std() > 0

    def test_the_strongest_channels_come_first_with_the_centre_in_the_middle(self):
        layer = conv(3)
        with torch.no_grad():
            layer.kernel.readout.weight.mul_(torch.tensor([[1.0], [9.0], [3.0]]))
        figure = plot_kernels(layer, channels=2, slices=3)
        labels = [axis.get_ylabel() for axis in figure.axes]
        assert [label for label in labels if label.startswith("channel")] == [
            "channel 1", "channel 2",
        ]  # fmt: skip
        assert [axis.get_title() for axis in figure.axes[:3]] == [
            "$u_3$ = -0.30", "$u_3$ = +0.00", "$u_3$ = +0.30",
        ]  # fmt: skip
        middle = np.asarray(figure.axes[1].images[0].get_array())
        torch.testing.assert_close(torch.tensor(middle), kernel_values(layer, 65)[1, :, :, 32].T)

    def test_a_kernel_of_no_value_is_drawn(self, tmp_path):
        layer = conv(2)
        torch.nn.init.zeros_(layer.kernel.readout.weight)
        picture(plot_kernels(layer), tmp_path)

    def test_four_dimensions_are_too_many(self):
        with pytest.raises(ValueError, match="at most 3 dimensions, got 4"):
            plot_kernels(conv(4))


class TestPlotInitialization:
    model = CCNN(
        3, 5, dim=2, hidden_channels=16, num_blocks=4, extent=2.0, window_width=0.5, **SMALL
    )

    def test_without_the_scaling_outputs_explode(self, tmp_path):
        scaled, unscaled = initial_outputs(self.model, 16).values()
        assert scaled.shape == unscaled.shape == (16 * 5,)
        assert unscaled.std() > 5 * scaled.std()
        figure = plot_initialization({"scaled": scaled, "unscaled": unscaled})
        titles = [axis.get_title() for axis in figure.axes]
        assert titles[0] == f"scaled: standard deviation {scaled.std():.3g}"
        picture(figure, tmp_path)

    def test_neither_the_model_nor_the_global_generator_changes(self):
        before = copy.deepcopy(self.model.state_dict())
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        initial_outputs(self.model, 16)
        assert torch.equal(torch.rand(2), expected)
        assert self.model.readout == "mean"
        for name, tensor in self.model.state_dict().items():
            assert torch.equal(tensor, before[name])


HISTORY = [
    {"epoch": 0, "train/loss": 2.0, "val/loss": 1.5, "train/accuracy": 0.3, "val/accuracy": 0.4},
    {"epoch": 1, "train/loss": None, "val/loss": 1.2, "train/accuracy": 0.5, "val/accuracy": 0.6},
]


class TestPlotRun:
    def test_curves_are_the_history(self, tmp_path):
        figure = plot_learning_curves(HISTORY)
        loss, accuracy = figure.axes
        assert [list(map(list, line.get_data())) for line in loss.lines] == [
            [[1], [2.0]], [[1, 2], [1.5, 1.2]],
        ]  # fmt: skip
        assert list(accuracy.lines[1].get_ydata()) == [0.4, 0.6]
        picture(figure, tmp_path)

    def test_curves_without_validation(self, tmp_path):
        history = [{"epoch": 0, "train/loss": 2.0, "train/accuracy": 0.3}]
        figure = plot_learning_curves(history)
        assert [len(axis.lines) for axis in figure.axes] == [1, 1]
        picture(figure, tmp_path)

    def test_confusion_shows_counts_and_names(self, tmp_path):
        figure = plot_confusion([[5, 1], [0, 0]], ["cup", "saucer"])
        axis = figure.axes[0]
        assert [label.get_text() for label in axis.get_yticklabels()] == ["cup", "saucer"]
        assert [text.get_text() for text in axis.texts] == ["5", "1"]
        shares = np.asarray(axis.images[0].get_array())
        np.testing.assert_allclose(shares, [[5 / 6, 1 / 6], [0, 0]])
        picture(figure, tmp_path)

    @pytest.mark.parametrize("name", ["$a_b$", "$\\frac$", "US$", "a\udcff", "a\x1b[31m\n\0"])
    def test_class_names_are_drawn_as_plain_text(self, tmp_path, name):
        figure = plot_confusion([[1, 0], [0, 1]], [name, "other"])
        picture(figure, tmp_path)
        axis = figure.axes[0]
        for label in (axis.get_xticklabels()[0], axis.get_yticklabels()[0]):
            assert label.get_text() == name.encode("unicode_escape").decode().replace("\\\\", "\\")
            assert not label.get_parse_math()

    def test_a_matrix_that_does_not_fit_the_classes(self):
        with pytest.raises(ValueError, match=r"shape \[3, 3\], got \[2, 2\]"):
            plot_confusion([[1, 0], [0, 1]], ["a", "b", "c"])

    def test_both_are_put_into_the_folder_of_the_run(self, tmp_path):
        results = {"history": HISTORY, "confusion": [[1, 0], [0, 1]], "classes": ["a", "b"]}
        files = draw_run(tmp_path, results)
        assert [file.name for file in files] == ["learning_curves.png", "confusion.png"]
        assert all(file.exists() for file in files)
        assert draw_run(tmp_path, results | {"confusion": None}) == files[:1]


class TestPlotVoxels:
    def test_shows_points_and_cubes(self, tmp_path):
        pos = torch.rand(20, 3) * 2 - 1
        voxels = torch.tensor([[-0.75, -0.75, -0.75], [0.75, 0.25, -0.25]])
        figure = plot_voxels(pos, voxels, resolution=4)
        cloud, grid = figure.axes
        assert cloud.get_title() == "20 points"
        assert grid.get_title() == "2 voxels of a grid of 4$^3$"
        picture(figure, tmp_path)


def test_cubes_have_six_square_faces_around_their_centre():
    centers = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    faces = cube_faces(centers, 0.5).reshape(2, 6, 4, 3)
    np.testing.assert_allclose(faces.mean(axis=(1, 2)), centers)
    sides = np.linalg.norm(faces - np.roll(faces, 1, axis=2), axis=-1)
    np.testing.assert_allclose(sides, 0.5)
    assert len(np.unique(faces.mean(axis=2).reshape(-1, 3), axis=0)) == 12


def test_no_picture_is_written_where_that_is_not_possible(tmp_path):
    figure = plot_learning_curves(HISTORY)
    with pytest.raises(FileNotFoundError, match="absent"):
        save_figure(figure, tmp_path / "absent" / "figure.png")
    with pytest.raises(ValueError, match="Format 'doc' is not supported"):
        save_figure(figure, tmp_path / "figure.doc")


def test_a_picture_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path, small_files):
    file = save_figure(plot_learning_curves(HISTORY), tmp_path / "figure.png")
    before = file.read_bytes()
    with small_files, pytest.raises(OSError, match=r"cannot write.*figure\.png"):
        save_figure(plot_learning_curves(HISTORY[:1]), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_without_a_suffix_becomes_a_png(tmp_path):
    file = save_figure(plot_learning_curves(HISTORY), tmp_path / "figure")
    assert file == tmp_path / "figure.png"
    assert file.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'ccnn_geo\[viz\]'"):
        plot_learning_curves(HISTORY)


class TestInteractive:
    @pytest.fixture(autouse=True)
    def _plotly(self):
        pytest.importorskip("plotly", reason="the extra `viz` is missing")

    def test_a_volume_has_a_button_for_each_channel(self):
        from ccnn_geo.visualization.interactive import kernel_volume

        layer = conv(3)
        figure = kernel_volume(layer, channels=2)
        assert [trace.visible for trace in figure.data] == [True, False]
        (menu,) = figure.layout.updatemenus
        assert [button.args[0]["visible"] for button in menu.buttons] == [
            [True, False], [False, True],
        ]  # fmt: skip
        strongest = kernel_values(layer, 25).flatten(1)
        strongest = strongest[strongest.norm(dim=1).argmax()]
        np.testing.assert_array_equal(figure.data[0].value, strongest.numpy())

    def test_only_three_dimensions_make_a_volume(self):
        from ccnn_geo.visualization.interactive import kernel_volume

        with pytest.raises(ValueError, match="3 dimensions for a volume, got 2"):
            kernel_volume(conv(2))

    def test_a_page_has_the_figures_and_loads_nothing(self, tmp_path):
        from ccnn_geo.visualization.interactive import cloud_figure, write_page

        pos, values = np.random.default_rng(0).random((5, 3)), np.arange(5.0) - 2
        figures = [cloud_figure(pos, values, title=name, unit="m") for name in ("one", "two")]
        assert figures[0].data[0].marker.cmin == -2
        assert figures[0].data[0].marker.cmax == 2
        write_page(tmp_path / "page.html", figures, title="a < b", text="Words.")
        page = (tmp_path / "page.html").read_text()
        assert "<h1>a &lt; b</h1><p>Words.</p>" in page
        assert page.count('class="plotly-graph-div"') == 2
        assert "<script src=" not in page

    def test_no_window_without_a_screen(self, monkeypatch):
        open3d()
        from ccnn_geo.visualization.interactive import show_voxels

        monkeypatch.setattr("sys.platform", "linux")
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(RuntimeError, match="Expected a screen for a window, found none"):
            show_voxels(torch.zeros(3, 3), resolution=4)

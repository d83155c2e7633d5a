"""Blocks and networks against written-out formulas, and every option for its effect."""

import pytest
import torch
from torch.nn.functional import gelu

from ccnn_geo import CCNN, SIREN, CKConvMP, FourierNet, MAGNet, knn_graph
from ccnn_geo.nn import CCNNBlock, ChannelDropout, FlexBlock, Points, S4Block
from ccnn_geo.nn.blocks import ResidualBlock
from clouds_helpers import random_clouds

SETTINGS = {"dim": 3, "num_neighbors": 6, "omega_0": 1.0, "window_width": 0.5, "kernel_channels": 4}


def block_and_domain(kind, out_channels=8, **arguments):
    sizes = [(8, out_channels), (out_channels, out_channels)][: kind.num_convs]
    block = kind(*(CKConvMP(i, o, **SETTINGS) for i, o in sizes), **arguments).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.rand_like(parameter))
        for name, buffer in block.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    x, pos, batch = random_clouds(9, 7, channels=8)
    domain = Points.of(pos, knn_graph(pos, 6, batch, loop=True), batch=batch, batch_size=2)
    return block, x, domain


def convolve(conv, x, domain):
    return conv(x, domain.pos, domain.neighbors)


@pytest.mark.parametrize("out_channels", [8, 5])
def test_the_block_of_s4_is_its_formula(out_channels):
    block, x, domain = block_and_domain(S4Block, out_channels)
    branch = block.linear(gelu(convolve(block.conv(0), block.norm(x), domain)))
    torch.testing.assert_close(block(x, domain), block.shortcut(x) + branch)


def test_a_block_drops_nothing_by_default():
    conv = CKConvMP(8, 8, **SETTINGS)
    x = torch.rand(5, 8)
    for kind in (ResidualBlock, S4Block):
        assert torch.equal(kind(conv).train().dropout(x), x)


def test_the_block_of_the_paper_ends_its_branch_with_another_gelu():
    block, x, domain = block_and_domain(CCNNBlock)
    branch = gelu(block.linear(gelu(convolve(block.conv(0), block.norm(x), domain))))
    torch.testing.assert_close(block(x, domain), x + branch)


@pytest.mark.parametrize("out_channels", [8, 5])
def test_the_flex_block_is_its_formula(out_channels):
    block, x, domain = block_and_domain(FlexBlock, out_channels)
    hidden = gelu(block.norms[0](convolve(block.conv(0), x, domain)))
    branch = block.norms[1](convolve(block.conv(1), hidden, domain))
    torch.testing.assert_close(block(x, domain), gelu(block.shortcut(x) + branch))


@pytest.mark.parametrize("readout", ["mean", "max", None])
@pytest.mark.parametrize("kind", [CCNNBlock, S4Block, FlexBlock])
def test_a_network_is_its_formula(kind, readout):
    settings = {**SETTINGS, "hidden_channels": 8, "num_blocks": 2, "block": kind}
    model = CCNN(4, 3, **settings, readout=readout).double().eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    x, pos, batch = random_clouds(9, 7)
    graph = knn_graph(pos, 6, batch, loop=True)
    domain = Points.of(pos, graph)
    hidden = gelu(model.stem_norm(model.stem(x, pos, graph)))
    for block in model.blocks:
        hidden = block(hidden, domain)
    if kind is not FlexBlock:
        hidden = model.norm(hidden)
    if readout == "mean":
        hidden = torch.stack([hidden[batch == cloud].mean(0) for cloud in range(2)])
    elif readout == "max":
        hidden = torch.stack([hidden[batch == cloud].amax(0) for cloud in range(2)])
    expected = hidden @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x, pos, batch), expected)


@pytest.mark.parametrize("kind", [CCNNBlock, S4Block, FlexBlock])
@pytest.mark.parametrize("elementwise", [False, True])
def test_dropout_inside_a_block_drops_what_it_should(kind, elementwise):
    block, x, domain = block_and_domain(kind, dropout=0.5, elementwise_dropout=elementwise)
    dropped = []
    block.dropout.register_forward_hook(lambda module, inputs, output: dropped.append(output == 0))
    evaluated = block(x, domain)
    assert not bool(dropped[0].any())
    block.dropout.train()
    assert not torch.allclose(block(x, domain), evaluated)
    zeros = dropped[1]
    assert 0.2 < float(zeros.double().mean()) < 0.8
    for cloud in range(2):
        rows = zeros[domain.batch == cloud]
        assert torch.equal(rows, rows[:1].expand_as(rows)) != elementwise
    assert not torch.equal(zeros[0], zeros[-1])


def tiny(**arguments):
    torch.manual_seed(5)
    settings = {**SETTINGS, "hidden_channels": 6, "num_blocks": 1, **arguments}
    return CCNN(4, 3, **settings).double()


OPTIONS = [
    {"hidden_channels": 5}, {"num_blocks": 2}, {"kernel_channels": 5}, {"omega_0": 2.0},
    {"num_neighbors": 5}, {"extent": 0.7}, {"window_width": 0.4}, {"window_cutoff": 0.3},
    {"readout": "max"}, {"readout": None}, {"block": S4Block}, {"block": FlexBlock},
    {"kernel": lambda values: MAGNet(3, 4, values, num_layers=2, omega_0=1.0)},
    {"separable": False}, {"initialization": "exact"},
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: next(iter(option)))
def test_every_option_of_a_network_has_an_effect(option):
    x, pos, batch = random_clouds(12, 10)
    plain = tiny().eval()(x, pos, batch)
    changed = tiny(**option).eval()(x, pos, batch)
    assert changed.shape != plain.shape or not torch.allclose(changed, plain)


@pytest.mark.parametrize(
    "option",
    [{"dropout": 0.5}, {"input_dropout": 0.5}, {"dropout": 0.5, "elementwise_dropout": True}],
    ids=str,
)
def test_dropout_of_a_network_acts_in_training_only(option):
    x, pos, batch = random_clouds(12, 10)
    model, plain = tiny(**option), tiny()
    torch.testing.assert_close(model.eval()(x, pos, batch), plain.eval()(x, pos, batch))
    torch.manual_seed(0)
    first = model.train()(x, pos, batch)
    assert not torch.allclose(first, plain.train()(x, pos, batch))
    torch.manual_seed(1)
    assert not torch.allclose(first, model(x, pos, batch))


def test_elementwise_dropout_is_passed_to_the_blocks_and_the_input():
    model = tiny(dropout=0.5, input_dropout=0.25, elementwise_dropout=True)
    dropouts = [module for module in model.modules() if isinstance(module, ChannelDropout)]
    assert [(each.p, each.elementwise) for each in dropouts] == [(0.25, True), (0.5, True)]
    model = tiny(dropout=0.5, input_dropout=0.25)
    dropouts = [module for module in model.modules() if isinstance(module, ChannelDropout)]
    assert [(each.p, each.elementwise) for each in dropouts] == [(0.25, True), (0.5, False)]


def test_a_causal_network_is_another_network():
    pos = torch.rand(12, 1, dtype=torch.float64)
    x = torch.randn(12, 4, dtype=torch.float64)
    outputs = []
    for causal in (False, True):
        model = tiny(dim=1, causal=causal, readout=None).eval()
        outputs.append(model(x, pos))
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("separable", [True, False])
def test_the_papers_factor_counts_every_term_of_an_output(separable):
    """Sec. 4.1: Var(k) = 1 / K for a depthwise kernel, 1 / (C_in K) for a full one."""
    torch.manual_seed(0)
    conv = CKConvMP(6, 5, dim=3, num_neighbors=10, separable=separable)
    torch.manual_seed(0)
    plain = MAGNet(3, 32, conv.kernel.out_channels, center_range=(-0.125025, 0.125025))
    terms = 10 if separable else 60
    reference = plain.readout.weight.std() / terms**0.5
    assert float(conv.kernel.readout.weight.std().detach()) == pytest.approx(
        float(reference.detach()), rel=0.1
    )


@pytest.mark.parametrize("network", [SIREN, FourierNet, MAGNet])
def test_omega_0_sets_how_fast_a_kernel_network_turns(network):
    slopes = []
    for omega_0 in (1.0, 10.0):
        torch.manual_seed(0)
        kernel = network(2, 32, 16, omega_0=omega_0)
        coordinates = (0.05 * torch.randn(64, 2)).requires_grad_()
        kernel(coordinates).square().sum().sqrt().backward()
        slopes.append(float(coordinates.grad.norm()))
    assert slopes[1] > 3 * slopes[0]


@pytest.mark.parametrize("num_layers", [1, 3, 8])
def test_the_filters_of_a_fourier_net_share_its_frequencies(num_layers):
    """Frequencies of a product add up: their squares must not grow with the number of filters."""
    torch.manual_seed(0)
    network = FourierNet(2, 256, 4, num_layers=num_layers, omega_0=3.0)
    total = float(network.frequencies.detach().square().sum(0).mean().sqrt())
    # Uniform within 1 / sqrt(D) of 2 pi omega_0: its standard deviation over all filters.
    assert total == pytest.approx(2 * torch.pi * 3.0 / (2 * 3) ** 0.5, rel=0.1)

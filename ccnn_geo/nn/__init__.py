"""The layers: kernel networks, the continuous convolution, residual blocks and the CCNN."""

from ccnn_geo.nn.blocks import CCNNBlock, FlexBlock, ResidualBlock, S4Block
from ccnn_geo.nn.ccnn import CCNN
from ccnn_geo.nn.conv import CKConvMP
from ccnn_geo.nn.domains import AllPoints, Domain, Grid, Points
from ccnn_geo.nn.frequencies import frequency_penalty, kernel_frequencies
from ccnn_geo.nn.kernels import FourierNet, GaborNet, KernelNetwork, MAGNet
from ccnn_geo.nn.perceptrons import MLP, SIREN
from ccnn_geo.nn.pointwise import ChannelDropout, PointwiseLinear
from ccnn_geo.nn.window import GaussianWindow
from ccnn_geo.pretrained.card import ModelCard, Preprocessing
from ccnn_geo.pretrained.model import PretrainedModule
from ccnn_geo.pretrained.storage import pretrained_names

__all__ = [
    "AllPoints",
    "CCNN",
    "MLP",
    "SIREN",
    "CCNNBlock",
    "CKConvMP",
    "ChannelDropout",
    "Domain",
    "FlexBlock",
    "FourierNet",
    "GaborNet",
    "GaussianWindow",
    "Grid",
    "KernelNetwork",
    "MAGNet",
    "ModelCard",
    "Points",
    "PointwiseLinear",
    "Preprocessing",
    "PretrainedModule",
    "ResidualBlock",
    "S4Block",
    "frequency_penalty",
    "kernel_frequencies",
    "pretrained_names",
]

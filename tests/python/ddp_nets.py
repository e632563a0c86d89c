# SPDX-License-Identifier: BSD-3-Clause
"""The networks of the parity cases. tests/multirank/parity/nets.h has the same ones, with the same names of parameters.

Each takes a batch, a dict of tensors, and returns a list of tensors. Small: what is compared is how gradients travel.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CLASSES = 10
FEATURES = 20
WORDS = 30
WIDTH = 16


class Stack(nn.Module):
    """Layers in a row."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, batch):
        return [self.body(batch["inputs"])]


def mlp():
    return Stack(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, CLASSES))


def layer_norm():
    return Stack(nn.Linear(FEATURES, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, CLASSES))


def first_layer_frozen():
    net = mlp()
    net.body[0].requires_grad_(False)
    return net


def conv(channels, out, stride=1, groups=1, bias=True):
    return nn.Conv2d(channels, out, 3, stride, 1, groups=groups, bias=bias)


def convolutional():
    return Stack(conv(3, 8), nn.ReLU(), conv(8, 16, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES))


def depthwise():
    layers = conv(3, 8, stride=2), nn.ReLU(), conv(8, 8, groups=8), nn.Conv2d(8, 12, 1), nn.ReLU()
    return Stack(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES))


def normalized(norm):
    """Without biases before a norm: it takes them out again, and their gradients are rounding errors."""
    layers = conv(3, 8, bias=False), norm(8), nn.ReLU(), conv(8, 16, stride=2, bias=False), norm(16), nn.ReLU()
    return Stack(*layers, nn.Flatten(), nn.Linear(256, CLASSES))


def batch_norm():
    return normalized(nn.BatchNorm2d)


def group_norm():
    return normalized(lambda channels: nn.GroupNorm(4, channels))


class RunningMean(nn.Module):
    """Uses its buffer in training, before it changes it: what one step leaves there decides about the next."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.first = nn.Linear(FEATURES, 32)
        self.last = nn.Linear(32, CLASSES)

    def forward(self, batch):
        inputs = batch["inputs"]
        centred = inputs - self.mean
        with torch.no_grad():
            self.mean.mul_(0.5).add_(inputs.mean(0) * 0.5)
        return [self.last(torch.tanh(self.first(centred)))]


class Transformer(nn.Module):
    """Batches are [length, samples] words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, dim_feedforward=32, dropout=0.0)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch):
        return [self.head(self.block(self.words(batch["words"])).mean(0))]


class Recurrent(nn.Module):
    """Inputs are [length, samples, WIDTH]; the last output is classified."""

    def __init__(self, kind, **options):
        super().__init__()
        self.recurrent = kind(WIDTH, 12, **options)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, batch):
        return [self.head(self.recurrent(batch["inputs"])[0][-1])]


def lstm():
    return Recurrent(nn.LSTM, num_layers=2)


def gru():
    return Recurrent(nn.GRU)


class BagOfWords(nn.Module):
    def __init__(self, sparse=False):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, sparse=sparse)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch):
        return [self.head(torch.tanh(self.words(batch["words"]).mean(0)))]


def sparse_bag_of_words():
    return BagOfWords(sparse=True)


class Tied(nn.Module):
    """Its output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.middle = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)
        self.head.weight = self.words.weight

    def forward(self, batch):
        return [self.head(torch.tanh(self.middle(self.words(batch["words"]).mean(0))))]


class Branches(nn.Module):
    """Which branch a rank takes depends on the rank, and on the step if the batch says so; `never` is for nobody."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(FEATURES, 16)
        self.right = nn.Linear(FEATURES, 16)
        self.never = nn.Linear(FEATURES, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, batch):
        turn = dist.get_rank() + int(batch["turn"]) if "turn" in batch else dist.get_rank()
        branch = self.right if turn % 2 else self.left
        return [self.head(torch.tanh(branch(batch["inputs"])))]


class UnusedLayer(nn.Module):
    """No rank uses `never`."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.never = nn.Linear(32, 32)
        self.last = nn.Linear(32, CLASSES)

    def forward(self, batch):
        return [self.last(torch.tanh(self.first(batch["inputs"])))]


class SeveralOutputs(nn.Module):
    """Three results of one body."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(FEATURES, 32)
        self.classes = nn.Linear(32, CLASSES)
        self.value = nn.Linear(32, 1)

    def forward(self, batch):
        hidden = torch.tanh(self.body(batch["inputs"]))
        return [self.classes(hidden), self.value(hidden), hidden]


class Checkpointed(nn.Module):
    """Computes `middle` anew in backward. In C++ it does not: the numbers are the same."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.first = nn.Linear(FEATURES, 32)
        self.middle = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
        self.last = nn.Linear(32, CLASSES)

    def forward(self, batch):
        hidden = torch.tanh(self.first(batch["inputs"]))
        return [self.last(checkpoint(self.middle, hidden, use_reentrant=self.use_reentrant))]


class Complex(nn.Module):
    """Complex parameters, small ones: tanh has poles. The classes' scores are absolute values."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(FEATURES, 24, dtype=torch.complex64) * 0.1)
        self.last = nn.Parameter(torch.randn(24, CLASSES, dtype=torch.complex64) * 0.2)

    def forward(self, batch):
        hidden = torch.tanh(batch["inputs"].to(self.first.dtype) @ self.first)
        return [(hidden @ self.last).abs()]


class OddShapes(nn.Module):
    """A weight that is not contiguous, one that is a scalar, and a layer that runs three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter((torch.randn(WIDTH, FEATURES) * 0.2).t())
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.again = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch):
        hidden = batch["inputs"] @ self.first * self.scale
        for _ in range(3):
            hidden = torch.tanh(self.again(hidden))
        return [self.last(hidden)]


class TwoDtypes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 32)
        self.last = nn.Linear(32, CLASSES, dtype=torch.float64)

    def forward(self, batch):
        return [self.last(torch.tanh(self.first(batch["inputs"])).double())]


def classify(model, batch):
    return functional.cross_entropy(model(batch)[0], batch["labels"])


def classify_and_measure(model, batch):
    """Of three outputs, two count."""
    classes, value, _ = model(batch)
    return functional.cross_entropy(classes, batch["labels"]) + value.square().mean()


def compare_two(model, batch):
    """Two forwards, one backward."""
    other = model({"inputs": batch["others"]})[0]
    return classify(model, batch) + 0.1 * (model(batch)[0] - other).square().mean()


def look_first(model, batch):
    """A forward that nobody follows with a backward, as an evaluation between steps."""
    with torch.no_grad():
        model(batch)
    return classify(model, batch)

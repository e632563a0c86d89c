#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes what resnet_test.cpp compares with: names, shapes and outputs of torchvision's ResNets.

Needs torch and torchvision 0.26. Weights and inputs follow a formula that the test repeats, so that no weights need to
be stored: element i of the k-th entry of the state dict (integers aside) is

    bias + scale * sin(0.7 * k + 1.3 * i)

with bias 1 and scale 0.1 for weights and variances of batch norms, 0 and 0.1 for their biases and means, and 0 and
sqrt(6 / inputs of a unit) for convolutions and the linear layer. Element i of the input is sin(0.01 * i * i). All in
double precision: with a batch of two, batch norm makes the deep ones too sensitive to rounding for single precision.
"""

import math
import pathlib

import torch
import torchvision


def formula(count, k, bias, scale):
    i = torch.arange(count, dtype=torch.float64)
    return bias + scale * torch.sin(0.7 * k + 1.3 * i)


def fill(model):
    for k, (name, tensor) in enumerate(model.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        bias, scale = 0.0, 0.1
        if tensor.dim() > 1:
            scale = math.sqrt(6.0 / tensor[0].numel())
        elif name.endswith(("weight", "running_var")):
            bias = 1.0
        tensor.copy_(formula(tensor.numel(), k, bias, scale).view(tensor.shape))


def outputs(model, size):
    i = torch.arange(2 * 3 * size * size, dtype=torch.float64)
    images = torch.sin(0.01 * i * i).view(2, 3, size, size)
    result = {}
    for mode in ("train", "eval"):
        fill(model)
        model.train(mode == "train")
        result[mode] = model(images).flatten().tolist()
    return result


def main():
    folder = pathlib.Path(__file__).parent
    with torch.no_grad():
        for depth in (18, 34, 50):
            name = f"resnet{depth}"
            build = getattr(torchvision.models, name)
            lines = [f"{key} {' '.join(map(str, value.shape))}".rstrip()
                     for key, value in build().state_dict().items()]
            for mode, values in outputs(build(num_classes=5).double(), 64).items():
                lines.append(f"output.{mode} " + " ".join(f"{value:.9g}" for value in values))
            (folder / f"torchvision_{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

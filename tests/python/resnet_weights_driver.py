#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares the model of examples/resnet with the ResNets of torchvision, timm and Hugging Face, each with random weights that
Python has saved: the logits must be the same.

    resnet_weights_driver.py WHEELS RESNET_LOGITS CONVERT_WEIGHTS
        WHEELS: the folder with torchvision, timm, transformers and safetensors; CONVERT_WEIGHTS: tools/convert_weights.py

Exit status: 1 where the sides differ; 77 (skipped) where one of the packages is missing.
"""

import os
import subprocess
import sys
import tempfile

SKIPPED = 77
TOLERANCE = 1e-4  # of the largest logit
SIDE = 64


def import_or_skip(wheels):
    sys.path.insert(0, wheels)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    try:
        import safetensors.torch
        import timm
        import torch
        import torchvision
        from transformers import ResNetConfig, ResNetForImageClassification

        return torch, safetensors.torch, torchvision, timm, ResNetConfig, ResNetForImageClassification
    except Exception as error:  # a package without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python lacks torch, torchvision, timm, transformers or safetensors: {error}")
        sys.exit(SKIPPED)


def randomize(torch, model):
    """What is 0 or 1 in a new model must count as well."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
    return model.eval()


def make_models(torchvision, timm, config, hugging_face):
    """(architecture, who made it, the model, whether its weights are pickled)"""
    for arch in ("resnet18", "resnet34", "resnet50"):
        yield arch, "torchvision", getattr(torchvision.models, arch)(weights=None), True
        yield arch, "timm", timm.create_model(arch, pretrained=False), False
    shapes = {"resnet18": ("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
              "resnet50": ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048])}
    for arch, (layer, depths, sizes) in shapes.items():
        model = hugging_face(config(layer_type=layer, depths=depths, hidden_sizes=sizes, num_labels=1000))
        yield arch, "Hugging Face", model, False


def compare(torch, safetensors, arguments, arch, model, is_pickled, folder):
    """The largest difference, as a part of the largest logit."""
    program, convert = arguments
    weights, inputs, outputs = (os.path.join(folder, f"{name}.safetensors") for name in ("weights", "in", "out"))
    if is_pickled:
        pickled = os.path.join(folder, "weights.pth")
        torch.save(model.state_dict(), pickled)
        subprocess.run([sys.executable, convert, pickled, weights], check=True, stdout=subprocess.DEVNULL, timeout=100,
                       env=dict(os.environ, PYTHONPATH=sys.path[0]))
    else:
        safetensors.save_file(model.state_dict(), weights)
    images = torch.randn(2, 3, SIDE, SIDE)
    safetensors.save_file({"images": images}, inputs)
    subprocess.run([program, arch, weights, inputs, outputs], check=True, timeout=100)
    with torch.no_grad():
        theirs = model(images)
    theirs = getattr(theirs, "logits", theirs)
    ours = safetensors.load_file(outputs)["logits"]
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def main():
    torch, safetensors, torchvision, timm, config, hugging_face = import_or_skip(sys.argv[1])
    torch.set_num_threads(1)
    failed = False
    for arch, maker, model, is_pickled in make_models(torchvision, timm, config, hugging_face):
        with tempfile.TemporaryDirectory() as folder:
            difference = compare(torch, safetensors, sys.argv[2:], arch, randomize(torch, model), is_pickled, folder)
        print(f"{arch} of {maker}: logits differ by {difference:.1e} of the largest")
        failed |= not difference <= TOLERANCE
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

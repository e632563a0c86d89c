# SPDX-License-Identifier: BSD-3-Clause
"""The Python side of step 9: the steps of gpu_checks resnet50, in PyTorch alone. Prints its figure as gpu_checks does."""

import sys
import time

import torch
from torch import nn


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, channels, width, stride):
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.shortcut = nn.Identity()
        if stride != 1 or channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x):
        return torch.relu_(self.body(x) + self.shortcut(x))


def make_net(blocks):
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(channels, 64 << stage, 2 if stage > 0 and block == 0 else 1))
            channels = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def main():
    on_cpu = "--cpu" in sys.argv
    device = "cpu" if on_cpu else "cuda"
    batch, edge, warmup, steps = (4, 32, 1, 2) if on_cpu else (256, 224, 8, 30)
    torch.manual_seed(3)
    net = make_net((1, 1) if on_cpu else (3, 4, 6, 3)).to(device, memory_format=torch.channels_last)
    data = torch.randn(batch, 3, edge, edge, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.randint(10, (batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    begin = 0.0
    for step in range(warmup + steps):
        if step == warmup:
            if not on_cpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(net(data), target)
        loss.backward()
        optimizer.step()
    if not on_cpu:
        torch.cuda.synchronize()
    print(f"figure images_per_s={batch * steps / (time.perf_counter() - begin):.6g}")


main()

# SPDX-License-Identifier: BSD-3-Clause
"""One rank of the Python side of the ddp_step benchmark: the training step with and without PyTorch's DDP.

Started by ddp_step_driver.py with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Writes the time of each
timed step, in milliseconds, one a line, to FOLDER/rankN.txt, and its peak memory to FOLDER/rankN.extras.
"""

import argparse
import contextlib
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CLASSES = 1000
# Blocks in each of the four stages, and whether a block is a bottleneck of three convolutions.
RESNETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}
ARCHITECTURES = [*RESNETS, "transformer"]
WORDS, SENTENCE, WIDTH = 8000, 32, 256


class Residual(nn.Module):
    """relu(x + f(x)), where f is two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the width at the end."""

    def __init__(self, channels, width, stride, bottleneck):
        super().__init__()
        self.out_channels = width * 4 if bottleneck else width
        # (output channels, kernel, stride) of each convolution.
        plan = [(width, 3, stride), (width, 3, 1)]
        if bottleneck:
            plan = [(width, 1, 1), (width, 3, stride), (self.out_channels, 1, 1)]
        layers = []
        previous = channels
        for out, kernel, step in plan:
            layers += [
                nn.Conv2d(previous, out, kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
            previous = out
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = None
        if stride != 1 or channels != self.out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, self.out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(self.out_channels),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.body(x)
        y += x if self.shortcut is None else self.shortcut(x)
        return self.relu(y)


def make_resnet(arch):
    blocks, bottleneck = RESNETS[arch]
    channels = 64
    layers = [
        nn.Conv2d(3, channels, 7, 2, 3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Residual(channels, 64 << stage, stride, bottleneck))
            channels = layers[-1].out_channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*layers)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, dim_feedforward=4 * WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, sentences):
        return self.head(self.encoder(self.words(sentences)).mean(0))


def peak_mib():
    """Largest resident memory so far, as the kernel counts it."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def sent_bytes(interface):
    """Bytes that this host has sent by a network interface so far."""
    with open("/proc/self/net/dev", encoding="ascii") as table:
        return next(int(line.split()[9]) for line in table if line.split()[0] == f"{interface}:")


def measure(arguments, model):
    """Milliseconds of each timed step, and MiB that this host sent in a step; None where no interface is named."""
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    if arguments.arch == "transformer":
        data = torch.randint(WORDS, (SENTENCE, arguments.batch), generator=generator)
    else:
        data = torch.randn(arguments.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (arguments.batch,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # While this lives, backward communicates nothing.
    pause = getattr(model, "no_sync", contextlib.nullcontext)
    milliseconds = []
    sent_before = 0
    for step in range(arguments.warmup + arguments.steps):
        if step == arguments.warmup:
            dist.barrier()
            sent_before = sent_bytes(arguments.interface) if arguments.interface else 0
        start = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(arguments.accumulate - 1):
            with pause():
                nn.functional.cross_entropy(model(data), labels).backward()
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    sent = (sent_bytes(arguments.interface) - sent_before) / arguments.steps / 2**20 if arguments.interface else None
    return milliseconds[arguments.warmup:], sent


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=["pytorch_ddp", "pytorch_ddp_tuned", "pytorch_alone"], required=True)
    parser.add_argument("--arch", choices=ARCHITECTURES, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--interface", help="network interface whose bytes are counted")
    parser.add_argument("--output", required=True, help="folder for the figures")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    model = Transformer() if arguments.arch == "transformer" else make_resnet(arguments.arch)
    if arguments.variant == "pytorch_ddp":
        model = DistributedDataParallel(model)
    elif arguments.variant == "pytorch_ddp_tuned":
        # What a user who knows the options gives it: nothing is copied back, nothing sent before forward.
        model = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True)
    milliseconds, sent = measure(arguments, model)
    with open(os.path.join(arguments.output, f"rank{dist.get_rank()}.txt"), "w", encoding="ascii") as file:
        file.writelines(f"{value:.4f}\n" for value in milliseconds)
    with open(os.path.join(arguments.output, f"rank{dist.get_rank()}.extras"), "w", encoding="ascii") as file:
        file.write(f"peak_mib {peak_mib():.1f}\n")
        if sent is not None:
            file.write(f"sent_mib {sent:.3f}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

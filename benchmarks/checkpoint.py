# SPDX-License-Identifier: BSD-3-Clause
"""One rank of the Python side of the checkpoint benchmark: PyTorch's DDP with torch.save, or with async_save.

Started by checkpoint_driver.py with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. Writes its figures to
OUTPUT/rankN.json.
"""

import argparse
import json
import os
import time
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ddp_step import CLASSES, make_resnet
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.nn.parallel import DistributedDataParallel


class NoSaver:
    def save(self, _model, _optimizer):
        pass

    def wait(self):
        pass


class TorchSaver:
    """Rank 0 saves, as most programs do."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def save(self, model, optimizer):
        self.count += 1
        if dist.get_rank() == 0:
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, os.path.join(self.folder, f"{self.count % 2}.pt"))

    def wait(self):
        pass


class AsyncSaver:
    """async_save, which must not be called again before the last one has ended. It plans with collectives in a thread: with
    the group that DDP uses, both wait for ever."""

    def __init__(self, folder):
        self.folder, self.count, self.running = folder, 0, None
        self.group = dist.new_group(backend="gloo")

    def save(self, model, optimizer):
        self.wait()
        self.count += 1
        model_state, optimizer_state = get_state_dict(model, optimizer)
        state = {"model": model_state, "optimizer": optimizer_state}
        path = os.path.join(self.folder, str(self.count % 2))
        self.running = dcp.async_save(state, checkpoint_id=path, process_group=self.group)

    def wait(self):
        if self.running is not None:
            self.running.result()
        self.running = None


SAVERS = {"none": lambda folder: NoSaver(), "torch_save": TorchSaver, "async_save": AsyncSaver}


def train(arguments):
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(rank)
    data = torch.randn(arguments.batch, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (arguments.batch,), generator=generator)
    model = DistributedDataParallel(make_resnet(arguments.arch))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saver = SAVERS[arguments.variant](arguments.folder)
    steps, stalls = [], []
    start = 0.0
    for step in range(1, arguments.warmup + arguments.steps + 1):
        if step == arguments.warmup + 1:
            dist.barrier()
            start = time.perf_counter()
        step_start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
        if step % arguments.every == 0:
            stall_start = time.perf_counter()
            saver.save(model, optimizer)
            if step > arguments.warmup:
                stalls.append((time.perf_counter() - stall_start) * 1e3)
        if step > arguments.warmup:
            steps.append((time.perf_counter() - step_start) * 1e3)
    total = (time.perf_counter() - start) * 1e3
    saver.wait()
    return {"steps_ms": steps, "stalls_ms": stalls, "total_ms": total}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=SAVERS, required=True)
    parser.add_argument("--arch", required=True)
    for name in ["--batch", "--warmup", "--steps", "--every"]:
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--folder", required=True, help="for checkpoints")
    parser.add_argument("--output", required=True, help="for the figures")
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    dist.init_process_group("gloo")
    figures = train(arguments)
    with open(os.path.join(arguments.output, f"rank{dist.get_rank()}.json"), "w", encoding="ascii") as file:
        json.dump(figures, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""One rank of PyTorch's side of the tensor-parallel benchmark: the MLP by torch.distributed.tensor.parallel over gloo.
tensor_parallel_driver.py starts it; it writes its figures to OUTPUT/rankN.json.
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task")
    parser.add_argument("--output")
    for name in ("width", "hidden", "batch", "classes", "warmup", "steps"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    mesh = init_device_mesh("cpu", (ranks,))
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(options.width, options.hidden), nn.GELU(), nn.Linear(options.hidden, options.width))
    inputs = torch.randn(options.batch, options.width).requires_grad_(True)
    net = parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    # The default, foreach, is not there for DTensor on every version.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, foreach=False)
    times, first_loss = [], None
    for step in range(options.warmup + options.steps):
        dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad()
        inputs.grad = None
        loss = net(inputs).square().mean()
        loss.backward()
        optimizer.step()
        if step >= options.warmup:
            times.append((time.perf_counter() - start) * 1e3)
        if first_loss is None:
            first_loss = loss.item()
    with open(os.path.join(options.output, f"rank{rank}.json"), "w", encoding="ascii") as file:
        json.dump({"steps_ms": times, "all_reduces_ms": [], "loss": first_loss}, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

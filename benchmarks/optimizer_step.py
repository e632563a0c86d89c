# SPDX-License-Identifier: BSD-3-Clause
"""One rank of the Python side of the optimizer benchmark. optimizer_step_driver.py starts it with RANK and WORLD_SIZE set; it
writes its figures to OUTPUT/rankN.json.
"""

import argparse
import json
import os
import time

import torch

OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, dict(lr=1e-3)),
    "sgd": (torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=1e-4)),
}
WAYS = {"python": {}, "foreach": dict(foreach=True), "fused": dict(fused=True)}


def read_parameters(path):
    parameters = []
    with open(path, encoding="ascii") as file:
        for line in file:
            shape = [int(size) for size in line.split()]
            parameters.append(torch.nn.Parameter(torch.randn(shape).mul_(0.02)))
            parameters[-1].grad = torch.randn(shape).mul_(0.001)
    return parameters


def wait_for_all(folder):
    with open(os.path.join(folder, f"ready{os.environ['RANK']}"), "w", encoding="ascii"):
        pass
    for rank in range(int(os.environ["WORLD_SIZE"])):
        while not os.path.exists(os.path.join(folder, f"ready{rank}")):
            time.sleep(0.001)


def main():
    parser = argparse.ArgumentParser()
    for name in ("variant", "shapes", "output"):
        parser.add_argument(f"--{name}")
    for name in ("warmup", "steps"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    way, kind = options.variant.split("_")
    optimizer_class, arguments = OPTIMIZERS[kind]
    optimizer = optimizer_class(read_parameters(options.shapes), **arguments, **WAYS[way])
    for _ in range(options.warmup):
        optimizer.step()
    wait_for_all(options.output)
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    with open(os.path.join(options.output, f"rank{os.environ['RANK']}.json"), "w", encoding="ascii") as file:
        json.dump({"steps_ms": times}, file)


if __name__ == "__main__":
    main()

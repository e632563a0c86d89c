# SPDX-License-Identifier: BSD-3-Clause
"""One rank of PyTorch's DDP on gloo: writes what Lockstep's DDP must reproduce, as raw little-endian float32.

FOLDER/CASE/ holds
  rankR.inputs, rankR.labels   what rank R trains on, step after step
  initial/NAME                 parameters before training
  gradients/NAME               averaged gradients of the first step; no file where DDP left the gradient undefined
  magnitudes/NAME              mean over the ranks of the absolute value of their own gradients of the first step
  parameters/NAME              parameters after STEPS steps

The networks and constants here and in tests/multirank/ddp_python_parity_test.cpp are the same.
Started by ddp_parity_driver.py with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 5
BATCH = 6
CLASSES = 10
LEARNING_RATE = 0.05
MOMENTUM = 0.9


def mlp():
    return nn.Sequential(
        nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, CLASSES)
    )


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
    )


def batch_norm():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )


class Branches(nn.Module):
    """Even ranks use `left`, odd ranks use `right`, nobody uses `never`."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(20, 16)
        self.right = nn.Linear(20, 16)
        self.never = nn.Linear(20, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.right(x) if dist.get_rank() % 2 else self.left(x)))


# Case -> how to build it, shape of one sample.
CASES = {
    "mlp": (mlp, (20,)),
    "convolutional": (convolutional, (3, 8, 8)),
    "batch_norm": (batch_norm, (3, 8, 8)),
    "branches": (Branches, (20,)),
}


def write(folder, name, tensor):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(tensor.detach().contiguous().float().numpy().astype("<f4").tobytes())


def write_all(folder, named_tensors):
    if dist.get_rank() == 0:
        for name, tensor in named_tensors:
            if tensor is not None:
                write(folder, name, tensor)


def magnitudes(model, state, loss_of):
    """Mean over the ranks of |own gradient|. Runs before DDP wraps the model, which then starts from `state` again."""
    loss_of(model).backward()
    result = []
    for name, parameter in model.named_parameters():
        magnitude = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()
        dist.all_reduce(magnitude)
        result.append((name, magnitude / dist.get_world_size()))
        parameter.grad = None
    model.load_state_dict(state)
    return result


def make_data(folder, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(STEPS, BATCH, *shape, generator=generator)
    labels = torch.randint(CLASSES, (STEPS, BATCH), generator=generator)
    write(folder, f"rank{dist.get_rank()}.inputs", inputs)
    write(folder, f"rank{dist.get_rank()}.labels", labels)
    return inputs, labels


def run_case(folder, number, build, shape):
    torch.manual_seed(100 + number)
    model = build()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs, labels = make_data(folder, shape, seed=1000 * number + dist.get_rank())
    write_all(os.path.join(folder, "initial"), model.named_parameters())

    def loss_of(network, step=0):
        return nn.functional.cross_entropy(network(inputs[step]), labels[step])

    write_all(os.path.join(folder, "magnitudes"), magnitudes(model, state, loss_of))
    wrapped = DistributedDataParallel(model, find_unused_parameters=build is Branches)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(wrapped, step).backward()
        if step == 0:
            write_all(os.path.join(folder, "gradients"), [(n, p.grad) for n, p in model.named_parameters()])
        optimizer.step()
    write_all(os.path.join(folder, "parameters"), model.named_parameters())


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for number, (case, (build, shape)) in enumerate(CASES.items()):
        run_case(os.path.join(folder, case), number, build, shape)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

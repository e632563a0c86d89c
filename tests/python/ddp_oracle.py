# SPDX-License-Identifier: BSD-3-Clause
"""One rank of PyTorch's DDP on gloo: trains all cases and writes what Lockstep's DDP must reproduce.

FOLDER/cases lists them. FOLDER/CASE/rankR holds tensors, each a line "NAME LAYOUT SIZE SIZE ..." and its elements as
little-endian float64, in which every dtype here is exact; complex numbers are pairs of them:
  data/NAME                what rank R trains on: [steps, batches of a step, ...]
  initial/NAME             parameters before training
  STEP/own/NAME            gradient of rank R's own data in that step, before any average
  STEP/gradient/NAME       gradient after DDP's average; none where DDP left it undefined
  final/NAME, buffer/NAME  parameters and buffers after the last step

Started by ddp_parity_driver.py as ddp_oracle.py FOLDER STORE, with RANK and WORLD_SIZE set. The ranks meet at the file STORE:
a port that is free might be taken before they come.
"""

import contextlib
import copy
import os
import sys

import torch
import torch.distributed as dist
import rank_end
from ddp_cases import CASES, STEPS
from torch.nn.parallel import DistributedDataParallel


def write(path, tensors):
    with open(path, "wb") as file:
        for name, tensor in tensors.items():
            layout = "sparse" if tensor.is_sparse else "complex" if tensor.is_complex() else "dense"
            values = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
            values = torch.view_as_real(values) if values.is_complex() else values
            file.write(" ".join([name, layout, *map(str, values.shape)]).encode() + b"\n")
            file.write(values.double().contiguous().numpy().astype("<f8").tobytes())


class Run:
    """A case on this rank, and what is written of it."""

    def __init__(self, number, case):
        self.case = case
        self.found = {}
        torch.manual_seed(100 + number)
        self.module = case.net()
        if case.dtype != torch.float32:
            self.module.to(case.dtype)
        if case.channels_last:
            self.module.to(memory_format=torch.channels_last)
        self.steps = STEPS if case.join is None else 5 + 2 * dist.get_rank()
        generator = torch.Generator().manual_seed(1000 * number + dist.get_rank())
        data = case.data(generator, (self.steps, case.batches))
        self.data = {name: t.to(case.dtype) if t.is_floating_point() else t for name, t in data.items()}
        self.note("data", self.data.items())
        self.note("initial", self.module.named_parameters())
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.module, case.ignored)
        self.model = DistributedDataParallel(self.module, **case.ddp)
        if case.hook is not None:
            self.model.register_comm_hook(None, case.hook)

    def note(self, kind, named):
        for name, tensor in named:
            if tensor is not None:
                self.found[f"{kind}/{name}"] = tensor.detach().clone()

    def note_gradients(self, kind, module):
        self.note(kind, [(name, parameter.grad) for name, parameter in module.named_parameters()])

    def backward(self, model, step, index):
        batch = {name: tensor[step, index] for name, tensor in self.data.items()}
        if self.case.channels_last:
            batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
        self.case.loss(model, batch).backward()

    def note_own_gradients(self, step):
        """Of a copy, so that nothing is communicated."""
        alone = copy.deepcopy(self.module)
        alone.zero_grad()
        for index in range(self.case.batches):
            self.backward(alone, step, index)
        self.note_gradients(f"{step}/own", alone)

    def train_step(self, optimizer, step):
        if step in self.case.recorded:
            self.note_own_gradients(step)
        optimizer.zero_grad()
        for index in range(self.case.batches):
            is_last = index + 1 == self.case.batches
            with contextlib.nullcontext() if is_last or not self.case.accumulates else self.model.no_sync():
                self.backward(self.model, step, index)
        if step in self.case.recorded:
            self.note_gradients(f"{step}/gradient", self.module)
        if self.case.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.case.max_norm)
        optimizer.step()

    def train(self):
        optimizer = self.case.optimizer([p for p in self.module.parameters() if p.requires_grad])
        join = contextlib.nullcontext()
        if self.case.join is not None:
            join = self.model.join(divide_by_initial_world_size=self.case.join)
        with join:
            for step in range(self.steps):
                self.train_step(optimizer, step)
        self.note("final", self.module.named_parameters())
        self.note("buffer", self.module.named_buffers())


def main(folder, store):
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    for number, (name, case) in enumerate(CASES.items()):
        run = Run(number, case)
        run.train()
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        write(os.path.join(folder, name, f"rank{dist.get_rank()}"), run.found)
        dist.barrier()  # an error in the next case is then not one of this
    if dist.get_rank() == 0:
        with open(os.path.join(folder, "cases"), "w") as file:
            file.write("".join(f"{name}\n" for name in CASES))
    dist.barrier()
    rank_end.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])

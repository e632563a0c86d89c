# SPDX-License-Identifier: BSD-3-Clause
"""Lets PyTorch's communication hooks reduce a few buckets, then a C++ program that must arrive at the same numbers.

FOLDER/HOOK.ranksW.stepS holds the average of step S, raw float32, made by W ranks on gloo. The gradients, shapes and
options here and in tests/scenario/parallel/hooks_python_parity_test.cpp are the same.

Exit status: that of the C++ program; 77 (skipped) where this Python cannot import the torch that the program links.
"""

import argparse
import os
import subprocess
import sys
import tempfile

import ddp_parity_driver
import rank_end
from ddp_parity_driver import SKIPPED

SHAPES = [(12, 16), (16,), (4, 4, 4)]  # multiples of 16 elements: Lockstep puts no zeros between them
STEPS = 6


def reason_to_skip(wanted_version):
    try:
        import numpy  # noqa: F401, PowerSGD draws its seeds from it
    except Exception as error:
        return f"this Python cannot import numpy: {error}"
    return ddp_parity_driver.reason_to_skip(wanted_version)


def wave(shape, rank, step):
    import torch

    places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    values = torch.sin(places * places * 0.13 + places * 0.7 + rank * 1.7 + step * 0.9) * (1 + 0.5 * rank)
    return values.reshape(shape)


class Bucket:
    """What a hook asks DDP's bucket for."""

    def __init__(self, gradients):
        import torch

        self.flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.places = self.flat.split([gradient.numel() for gradient in gradients])
        self.shapes = [gradient.shape for gradient in gradients]

    def buffer(self):
        return self.flat

    def gradients(self):
        return [place.view(shape) for place, shape in zip(self.places, self.shapes)]

    def index(self):
        return 0

    def is_last(self):
        return True


def one_rank(rank, ranks, folder):
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)

    def power_state(columns):
        return powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=columns, start_powerSGD_iter=2, min_compression_rate=1, random_seed=0
        )

    hooks = {
        "fp16_compress": (default_hooks.fp16_compress_hook, dist.group.WORLD),
        "bf16_compress": (default_hooks.bf16_compress_hook, dist.group.WORLD),
        "power_sgd": (powerSGD_hook.powerSGD_hook, power_state(2)),
        # Not batched_powerSGD_hook: in torch 2.11 it stops at an assertion of its own.
    }
    for name, (hook, state) in hooks.items():
        for step in range(STEPS):
            bucket = Bucket([wave(shape, rank, step).float() for shape in SHAPES])
            average = hook(state, bucket).wait()
            average = average[0] if isinstance(average, list) else average
            if rank == 0:
                average.detach().float().numpy().tofile(f"{folder}/{name}.ranks{ranks}.step{step}")
    dist.barrier()  # so that no rank closes connections that another still reads
    rank_end.leave()


def make_fixtures(folder):
    import torch.multiprocessing

    for ranks in (2, 3):
        torch.multiprocessing.spawn(one_rank, args=(ranks, folder), nprocs=ranks)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch-version", required=True)
    parser.add_argument("--program", required=True)
    options = parser.parse_args()

    reason = reason_to_skip(options.torch_version)
    if reason:
        print(f"skipped: {reason}")
        return SKIPPED
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory(prefix="lockstep_hooks_") as folder:
        make_fixtures(folder)
        program = subprocess.run(
            [options.program], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder), timeout=150, check=False
        )
        return 1 if program.returncode == SKIPPED else program.returncode


if __name__ == "__main__":
    sys.exit(main())

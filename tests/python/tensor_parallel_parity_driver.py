# SPDX-License-Identifier: BSD-3-Clause
"""Compares the derivatives of lockstep::autograd with torch.distributed.nn.functional over gloo, bit by bit: Python's ranks
compute first, with whole numbers, and the C++ program compares.

    tensor_parallel_parity_driver.py COMMAND ...

The command finds the file of Python's numbers in LOCKSTEP_EXPECTED_DERIVATIVES. A line has a case, a rank, and numbers.
Exit status: that of the command; 77 (skipped) where torch with gloo is missing.
"""

import os
import subprocess
import sys
import tempfile
import time

import rank_end

SKIPPED = 77
RANKS = 3
ROOT = 1


def whole_numbers(torch, shape, seed):
    """As in tests/unit/tensor_parallel/tensor_ranks.h."""
    count = 1
    for size in shape:
        count *= size
    return ((torch.arange(count) * 37 + seed * 11).remainder(7) - 3).float().view(shape)


def cases(torch, rank):
    """Name: shape of this rank's input, and what is done with it."""
    import torch.distributed.nn.functional as functional

    to_ranks = [rank + i for i in range(RANKS)]

    def all_to_all(x):
        return functional.all_to_all_single(torch.empty(sum(to_ranks), 2), x, to_ranks, to_ranks)

    def reduce_scatter(x):
        return functional.reduce_scatter(torch.empty(2, 2), list(x.chunk(RANKS)))

    return {
        "all_reduce": ((3, 2), functional.all_reduce),
        "all_gather": ((2, 2), lambda x: torch.cat(functional.all_gather(x))),
        "reduce_scatter": ((2 * RANKS, 2), reduce_scatter),
        "broadcast": ((3, 2), lambda x: functional.broadcast(x, ROOT)),
        "reduce": ((3, 2), lambda x: functional.reduce(x, ROOT)),
        "all_to_all": ((sum(to_ranks), 2), all_to_all),
    }


def run_rank(rank, folder):
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    with open(os.path.join(folder, f"rank{rank}"), "w", encoding="ascii") as file:
        for name, (shape, function) in cases(torch, rank).items():
            x = whole_numbers(torch, shape, rank).requires_grad_(True)
            output = function(x)
            (output * whole_numbers(torch, output.shape, 100 + rank)).sum().backward()
            # What `reduce` leaves on the other ranks is not defined.
            values = output.detach() if name != "reduce" or rank == ROOT else torch.zeros_like(output)
            for kind, tensor in (("output", values), ("gradient", x.grad)):
                file.write(f"{name}.{kind} {rank} {' '.join(str(int(value)) for value in tensor.flatten().tolist())}\n")
    wait_for_all(rank, folder)
    rank_end.leave()


def wait_for_all(rank, folder):
    """A rank that leaves closes its connections, which fails what others still read; so it waits for all of them."""
    with open(os.path.join(folder, f"done{rank}"), "w", encoding="ascii"):
        pass
    end = time.monotonic() + 100
    while not all(os.path.exists(os.path.join(folder, f"done{other}")) for other in range(RANKS)):
        if time.monotonic() > end:
            raise TimeoutError("another rank has not finished")
        time.sleep(0.01)


def main():
    if sys.argv[1] == "--rank":
        run_rank(int(sys.argv[2]), sys.argv[3])
        return 0
    try:
        import torch.distributed as dist

        if not dist.is_gloo_available():
            raise ImportError("gloo is missing")
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch with gloo: {error}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
        ranks = [subprocess.Popen([sys.executable, __file__, "--rank", str(rank), folder], env=environment) for rank in range(RANKS)]
        try:
            if any([rank.wait(timeout=150) for rank in ranks]):
                print("Python's side failed")
                return 1
        finally:
            for rank in ranks:
                rank.kill()
        expected = os.path.join(folder, "expected")
        with open(expected, "w", encoding="ascii") as file:
            for rank in range(RANKS):
                with open(os.path.join(folder, f"rank{rank}"), encoding="ascii") as part:
                    file.write(part.read())
        return subprocess.run(sys.argv[1:], env=dict(environment, LOCKSTEP_EXPECTED_DERIVATIVES=expected), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

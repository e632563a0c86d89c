# SPDX-License-Identifier: BSD-3-Clause
"""The Python side of the task_pool benchmark: tasks a second of one kind; task_pool_driver.py starts it."""

import argparse
import multiprocessing
import time

import numpy
import torch
import torch.multiprocessing

ELEMENTS = 128_000  # 500 KiB of float


def small(item):
    """One microsecond of work."""
    end = time.perf_counter_ns() + 1000
    while time.perf_counter_ns() < end:
        pass
    return item + 1


def array_result(item):
    return numpy.full((ELEMENTS,), item, dtype=numpy.float32)


def tensor_result(item):
    return torch.full((ELEMENTS,), float(item))


def last(given):
    return float(given[-1])


def start_worker():
    torch.set_num_threads(1)


def run(pool, variant, tasks):
    if variant == "small":
        assert list(pool.imap(small, range(tasks))) == list(range(1, tasks + 1))
    elif variant == "small_chunks":
        assert pool.map(small, range(tasks)) == list(range(1, tasks + 1))
    elif variant == "round_trip":
        for item in range(tasks):
            assert pool.apply(small, (item,)) == item + 1
    elif variant in ("result_array", "result_tensor"):
        function = array_result if variant == "result_array" else tensor_result
        for item, result in enumerate(pool.imap(function, range(tasks))):
            assert len(result) == ELEMENTS and result[0] == item and result[-1] == item
    elif variant in ("argument_array", "argument_tensor"):
        argument = numpy.full((ELEMENTS,), 3, dtype=numpy.float32)
        if variant == "argument_tensor":
            argument = torch.from_numpy(argument)
        for result in pool.imap(last, (argument for _ in range(tasks))):
            assert result == 3
    else:
        raise ValueError(f"there is no variant {variant}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=1000)
    options = parser.parse_args()
    library = torch.multiprocessing if options.variant.endswith("tensor") else multiprocessing
    with library.Pool(options.workers, start_worker) as pool:
        run(pool, options.variant, options.warmup)
        start = time.perf_counter()
        run(pool, options.variant, options.tasks)
        rate = options.tasks / (time.perf_counter() - start)
    print(rate)  # last, whatever the end of the pool says


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""The Python side of the ensemble benchmark: a process that returns what it gets, over the queues of torch.multiprocessing, as
ensemble.cpp measures it. Prints JSON.

    ensemble.py REQUESTS
"""

import json
import sys
import time

WARMUP = 50
FLOATS = 600 * 1024 // 4


def shared_copy(tensor):
    """One copy, in shared memory, which put() then only names."""
    copy = tensor.new(tensor._typed_storage()._new_shared(tensor.numel()))
    copy.copy_(tensor)
    return copy


def serve(requests, answers):
    while (tensor := requests.get()) is not None:
        answers.put(shared_copy(tensor))  # what it got belongs to the other side


def main():
    import torch
    import torch.multiprocessing

    torch.set_num_threads(1)
    requests, answers = torch.multiprocessing.Queue(), torch.multiprocessing.Queue()
    server = torch.multiprocessing.Process(target=serve, args=(requests, answers))
    server.start()
    tensor = torch.rand(FLOATS)
    times = []
    for number in range(WARMUP + int(sys.argv[1])):
        start = time.perf_counter_ns()
        requests.put(shared_copy(tensor))  # as submit, which leaves the program its tensor
        answer = answers.get().clone()
        if number >= WARMUP:
            times.append((time.perf_counter_ns() - start) / 1000)
    assert torch.equal(answer, tensor)
    requests.put(None)
    server.join()
    times.sort()
    print(json.dumps({"p50_us": times[len(times) // 2], "p99_us": times[len(times) * 99 // 100]}))


if __name__ == "__main__":
    main()

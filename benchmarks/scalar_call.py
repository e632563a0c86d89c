# SPDX-License-Identifier: BSD-3-Clause
"""How long `SummaryWriter.add_scalar` of torch.utils.tensorboard keeps its caller, as scalar_call.cpp measures it. Prints JSON.

    scalar_call.py WHEELS CALLS     WHEELS: the folder with the package tensorboard and what it needs
"""

import json
import statistics
import sys
import tempfile
import time

BURST = 100


def main():
    sys.path.insert(0, sys.argv[1])
    from torch.utils.tensorboard import SummaryWriter

    times = []
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as board:
        for step in range(0, int(sys.argv[2]), BURST):
            start = time.perf_counter_ns()
            for i in range(step, step + BURST):
                board.add_scalar("loss/train", 0.25 * i, i)
            times.append((time.perf_counter_ns() - start) / BURST)
            time.sleep(0.002)
    times.sort()
    print(json.dumps({"scalar_call_p50_ns": round(statistics.median(times)), "scalar_call_p99_ns": round(times[len(times) * 99 // 100])}))


if __name__ == "__main__":
    main()

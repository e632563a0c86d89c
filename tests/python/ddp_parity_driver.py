# SPDX-License-Identifier: BSD-3-Clause
"""Lets PyTorch's DDP train the cases of ddp_cases.py, for C++ programs that must arrive at the same numbers.

    ddp_parity_driver.py train FOLDER --ranks N --torch-version VERSION     writes PyTorch's numbers into FOLDER
    ddp_parity_driver.py compare FOLDER COMMAND ...                         starts the ranks of the C++ program

Exit status: that of the command; 77 (skipped) where this Python cannot import the torch that the program links, or has
written no numbers for that reason.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SKIPPED = 77
FOLDER = os.path.dirname(os.path.abspath(__file__))


def reason_to_skip(wanted_version):
    try:
        import torch
        import torch.distributed
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        return f"this Python cannot import torch: {error}"
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return "this torch has no gloo"
    found = torch.__version__.partition("+")[0]
    if found != wanted_version:
        return f"this Python has torch {found}, the program was built with {wanted_version}"
    return None


def end(processes):
    """Asks first, so that mpirun ends its ranks."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                process.send_signal(wanted)
        until = time.monotonic() + 5
        while time.monotonic() < until and any(process.poll() is None for process in processes):
            time.sleep(0.05)


def run(processes, seconds, what):
    """Waits for all; returns 0, or the exit status of the first that failed."""
    until = time.monotonic() + seconds
    try:
        while any(process.poll() is None for process in processes):
            failed = [process.returncode for process in processes if process.returncode]
            if failed:
                break
            if time.monotonic() > until:
                print(f"{what}: still running after {seconds} s", file=sys.stderr)
                return 1
            time.sleep(0.05)
        return next((process.returncode for process in processes if process.returncode), 0)
    finally:
        end(processes)


def make_fixtures(folder, ranks):
    common = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", WORLD_SIZE=str(ranks))
    with tempfile.TemporaryDirectory(prefix="lockstep_parity_") as meeting:
        command = [sys.executable, os.path.join(FOLDER, "ddp_oracle.py"), folder, os.path.join(meeting, "store")]
        processes = [subprocess.Popen(command, env=dict(common, RANK=str(rank))) for rank in range(ranks)]
        # A little less than the test has, so that nothing is left of it.
        return run(processes, 280, "PyTorch's DDP")


def train(options):
    reason = reason_to_skip(options.torch_version)
    # Numbers of an earlier run are not this run's.
    shutil.rmtree(options.folder, ignore_errors=True)
    if reason:
        print(f"skipped: {reason}")
        return SKIPPED
    with tempfile.TemporaryDirectory(prefix="lockstep_parity_") as folder:
        if make_fixtures(folder, options.ranks) != 0:
            print("PyTorch's DDP did not make the fixtures", file=sys.stderr)
            return 1
        shutil.copytree(folder, options.folder)
    return 0


def compare(options):
    if not os.path.isdir(options.folder):
        print("skipped: PyTorch's DDP has written no numbers")
        return SKIPPED
    os.execvpe(options.command[0], options.command, dict(os.environ, LOCKSTEP_PARITY_FOLDER=options.folder))


def main():
    parser = argparse.ArgumentParser()
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("train")
    part.set_defaults(run=train)
    part.add_argument("folder")
    part.add_argument("--ranks", type=int, required=True)
    part.add_argument("--torch-version", required=True)
    part = parts.add_parser("compare")
    part.set_defaults(run=compare)
    part.add_argument("folder")
    part.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/resnet as people do: good runs end in the result line, bad input gets one line.

    program_test.py --program RESNET --draw DATA_LOADER --mpirun tests/support/mpirun.sh
                    [--group training|usage|data|folder|failure|memory|resume]

After every run there must be no process and no shared-memory object that was not there before.
"""

import glob
import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
import time

import example_runs
from example_runs import TIME_LIMIT, bytes_of

SMALL = ["--dataset", "synthetic", "--limit", "64", "--batch-size", "8", "--image-size", "12", "--epochs", "2",
         "--warmup", "0.5", "--threads", "1", "--timeout", "120"]
RESULT = re.compile(
    r"result: accuracy=[01]\.\d{4} samples_per_second=\d+ seconds=\d+ ranks=(\d+) arch=(resnet\d+)")


class Run(example_runs.Run):
    name = "resnet"

    def check_result(self, ranks, arch):
        self.check(self.code == 0, "the exit code must be 0")
        self.check(self.stderr == "", "stderr must be empty")
        last = self.stdout.rstrip("\n").split("\n")[-1]
        match = RESULT.fullmatch(last)
        self.check(match, f"the last line '{last}' must be the result")
        self.check(match.group(1) == str(ranks) and match.group(2) == arch, "the result must name ranks and arch")
        self.check(self.stdout.count("result:") == 1, "only rank 0 prints the result")
        return float(last.split("accuracy=")[1].split()[0])


def test_training(context, _):
    """World sizes, workers and backends end in the result line, and the same numbers."""
    Run(context, None, SMALL).check_result(1, "resnet8")
    for ranks in (1, 2, 3):
        Run(context, ranks, [*SMALL, "--workers", "0"]).check_result(ranks, "resnet8")
    inline = Run(context, 2, [*SMALL, "--workers", "0"]).stdout.splitlines()
    worked = Run(context, 2, [*SMALL, "--workers", "2"]).stdout.splitlines()
    losses = [[line.split(" samples/s")[0].rsplit(";", 1)[0] for line in lines if line.startswith("epoch")]
              for lines in (inline, worked)]
    assert len(losses[0]) == 2 and losses[0] == losses[1], losses
    Run(context, 2, [*SMALL, "--arch", "resnet18", "--image-size", "32", "--channels", "3", "--workers", "0",
                     "--limit", "16", "--batch-size", "4"]).check_result(2, "resnet18")
    if context.mpi:
        Run(context, 2, [*SMALL, "--backend", "mpi"]).check_result(2, "resnet8")
    # It learns: 64 images are seen often enough to tell ten kinds of stripes apart better than chance (0.1).
    accuracy = Run(context, 2, ["--dataset", "synthetic", "--limit", "512", "--batch-size", "16", "--image-size", "16",
                                "--epochs", "4", "--threads", "1", "--lr", "0.1"]).check_result(2, "resnet8")
    assert accuracy > 0.5, accuracy


def test_usage(context, _):
    """Mistakes on the command line: one line, exit code 2, from rank 0 alone."""
    help_run = Run(context, 2, ["--help"])
    help_run.check(help_run.code == 0 and help_run.stdout.count("Usage:") == 1, "help is printed once")
    for arguments, parts in (
            (["--batch-size", "0"], ["--batch-size", "from 1"]),
            (["--arch", "resnet9"], ["--arch", "resnet14", "'resnet9'"]),
            (["--backend", "smoke-signals"], ["--backend", "shared-memory", "'smoke-signals'"]),
            (["--backend", "single"], ["--backend", "2 were started"]),
            (["--dataset", "imagenet"], ["--dataset", "fashion-mnist"]),
            (["--dataset", "image-folder"], ["--data", "image folder"]),
            (["--lr", "nan"], ["--lr", "'nan'"]),
            (["--lr", "-1"], ["--lr", "positive"]),
            (["--what"], ["--what"])):
        Run(context, 2, [*SMALL[:2], *arguments]).check_error(2, *parts)
    Run(context, None, ["--batch-size", "0"]).check_error(2, "--batch-size")
    Run(context, None, SMALL, environment={"OMPI_COMM_WORLD_RANK": "two", "OMPI_COMM_WORLD_SIZE": "2"}).check_error(
        1, "OMPI_COMM_WORLD_RANK")


def write_idx(path, header, payload):
    with open(path, "wb") as file:
        file.write(header + payload)


def write_images(folder, count, images=None, labels=None):
    """A set of `count` images of 8 x 8 pixels, for training and for the test; or with other bytes in the training set."""
    for prefix in ("train", "t10k"):
        header = struct.pack(">HBBIII", 0, 8, 3, count, 8, 8)
        write_idx(f"{folder}/{prefix}-images-idx3-ubyte", header, bytes(i % 251 for i in range(64 * count)))
        write_idx(f"{folder}/{prefix}-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, count),
                  bytes(i % 10 for i in range(count)))
    if images is not None:
        write_idx(f"{folder}/train-images-idx3-ubyte", b"", images)
    if labels is not None:
        write_idx(f"{folder}/train-labels-idx1-ubyte", b"", labels)


def test_data(context, folder):
    """Data files: good ones train, bad ones get one line that names the file, from one rank."""
    base = ["--epochs", "1", "--warmup", "0", "--batch-size", "4", "--threads", "1", "--timeout", "120", "--lr", "0.01"]
    arguments = [*base, "--data", folder]
    Run(context, 2, arguments).check_error(1, "train-images-idx3-ubyte", folder)

    write_images(folder, 16)
    Run(context, 2, arguments).check_result(2, "resnet8")
    Run(context, 2, [*base, "--data", folder, "--batch-size", "9"]).check_error(1, "16 training images", "batch of 9")

    write_images(folder, 16, images=struct.pack(">HBBIII", 0, 8, 3, 16, 8, 8) + bytes(1000))
    Run(context, 2, arguments).check_error(1, "train-images-idx3-ubyte", "1016")
    write_images(folder, 16, images=b"\x89PNG, or anything else that is no idx file")
    Run(context, 2, arguments).check_error(1, "train-images-idx3-ubyte")
    write_images(folder, 16, images=b"")
    Run(context, 2, arguments).check_error(1, "train-images-idx3-ubyte")
    write_images(folder, 0)
    Run(context, 2, arguments).check_error(1, "idx3-ubyte")
    write_images(folder, 16, labels=struct.pack(">HBBI", 0, 8, 1, 3) + bytes(3))
    Run(context, 2, arguments).check_error(1, "labels-idx1-ubyte")

    write_images(folder, 16)
    os.remove(f"{folder}/train-images-idx3-ubyte")
    whole = gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 16, 8, 8) + os.urandom(1024))
    write_idx(f"{folder}/train-images-idx3-ubyte.gz", b"", whole)
    Run(context, 2, arguments).check_result(2, "resnet8")
    write_idx(f"{folder}/train-images-idx3-ubyte.gz", b"", whole[:600])
    Run(context, 2, arguments).check_error(1, "train-images-idx3-ubyte.gz")


def test_folder(context, folder):
    """JPEG files in folders: trained on with the large stem; what is wrong with them gets their name."""
    base = ["--dataset", "image-folder", "--image-size", "48", "--epochs", "1", "--warmup", "0", "--batch-size", "4",
            "--threads", "1", "--timeout", "120", "--lr", "0.01"]
    arguments = [*base, "--data", folder]
    Run(context, 2, arguments).check_error(1, f"{folder}/train")
    for part, count in (("train", "6"), ("val", "3")):
        subprocess.run([context.draw, "--folder", f"{folder}/{part}", "--pictures", count, "--epochs", "0"],
                       check=True, capture_output=True)
    worked = Run(context, 2, arguments)
    worked.check_result(2, "resnet18")
    inline = Run(context, 2, [*arguments, "--workers", "0"])
    inline.check_result(2, "resnet18")
    losses = [run.stdout.split("loss ")[1].split(",")[0] for run in (worked, inline)]
    assert losses[0] == losses[1], f"the workers change the pictures: {losses}"
    Run(context, None, [*arguments, "--arch", "resnet8", "--limit", "8"]).check_result(1, "resnet8")
    Run(context, None, [*arguments, "--limit", "3"]).check_error(1, "3 training images", "batch of 4")

    # A damaged file is named by the rank that meets it; the other says whom it missed.
    damaged = f"{folder}/train/rings/2.jpg"
    whole = open(damaged, "rb").read()
    write_idx(damaged, whole[:400], b"")
    for workers in ("0", "2"):
        run = Run(context, 2, [*arguments, "--workers", workers])
        run.check(run.code == 1 and len(run.errors()) == 2, "both ranks end with a line")
        run.check(sum(damaged in line and "JPEG" in line for line in run.errors()) == 1, "one names the file")
    write_idx(damaged, whole, b"")

    os.rename(f"{folder}/val/rings", f"{folder}/val/discs")
    Run(context, 2, arguments).check_error(1, folder, "'rings' is only in train")
    os.rename(f"{folder}/train/rings", f"{folder}/train/discs")
    os.makedirs(f"{folder}/val/zebras")
    shutil.copy(f"{folder}/val/discs/0.jpg", f"{folder}/val/zebras/0.jpg")
    Run(context, 2, arguments).check_error(1, folder, "'zebras' is only in val")
    for file in glob.glob(f"{folder}/train/discs/*"):
        os.remove(file)
    Run(context, 2, arguments).check_error(1, f"{folder}/train", "discs")
    shutil.rmtree(f"{folder}/val")
    os.makedirs(f"{folder}/val")
    shutil.copytree(f"{folder}/train/checks", f"{folder}/train/discs", dirs_exist_ok=True)
    Run(context, 2, arguments).check_error(1, f"{folder}/val", "one for each class")


def test_failure(context, _):
    """A rank that fails ends the others within seconds; they say whom they missed."""
    for backend in ("shared-memory", "mpi") if context.mpi else ("shared-memory",):
        for ranks, failing in ((2, 0), (2, 1), (3, 1)):
            run = Run(context, ranks, [*SMALL, "--backend", backend, "--fail-at", "3", "--fail-rank", str(failing),
                                       "--timeout", "3600"])  # whoever waits for that is ended
            run.check(run.code == 1, "the exit code must be 1")
            errors = sorted(run.errors())
            run.check(len(errors) == ranks, "every rank says what happened")
            for rank, line in enumerate(errors):
                run.check(line.startswith(f"resnet: rank {rank}: "), f"line {rank} must name rank {rank}")
                run.check(("as --fail-at asks" if rank == failing else f"rank {failing}") in line.split(": ", 2)[2],
                          f"rank {rank} must name the cause")
    run = Run(context, 2, [*SMALL, "--lr", "1e38", "--epochs", "4"])
    run.check(run.code == 1 and any("the loss became" in line and "--lr" in line for line in run.errors()),
              "a loss that is no number is an error")


def with_shared_memory_of(size):
    """A launch prefix under which /dev/shm holds no more than `size`, in a mount namespace of its own."""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c",
            f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]


def test_memory(context, _):
    """A /dev/shm that is too small is an error that says what was wanted and what is free; enough of it is enough."""
    if subprocess.run([*with_shared_memory_of("1m"), "true"], check=False, capture_output=True).returncode != 0:
        print("memory: nothing was tested, this machine lets nobody mount a /dev/shm")
        return
    # The meeting needs 4 MiB for two ranks.
    run = Run(context, 2, SMALL, launch=with_shared_memory_of("1m"))
    run.check_error(1, "/dev/shm", "bytes wanted", "1048576 free", lines=2)
    # The gradients of a ResNet-18 need 45 MB a rank.
    run = Run(context, 2, [*SMALL, "--arch", "resnet18"], launch=with_shared_memory_of("16m"))
    run.check_error(1, "/dev/shm", "bytes wanted", "free", lines=2)
    Run(context, 2, SMALL, launch=with_shared_memory_of("16m")).check_result(2, "resnet8")


def check_stop(context, folder):
    """A signal that comes when there is a checkpoint saves the run and ends it."""
    command = [context.program, "--dataset", "synthetic", "--limit", "4000", "--batch-size", "8", "--image-size", "12",
               "--epochs", "100000", "--threads", "1", "--checkpoints", folder, "--checkpoint-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + TIME_LIMIT
        manifest = os.path.join(folder, "MANIFEST")
        while process.poll() is None and time.monotonic() < until and not (os.path.exists(manifest) and bytes_of(manifest)):
            time.sleep(0.05)
        process.terminate()
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    assert process.returncode == 75, f"a signal must end it with exit code 75, not {process.returncode}: {stdout}{stderr}"
    assert "as a signal asked: --resume goes on there" in stdout, stdout


def test_resume(context, folder):
    """A run that fails in the middle of an epoch and is resumed ends with the bits of one that does not, also with other
    workers; a signal saves and stops a run; weights of a run begin another."""
    whole, resumed, checkpoints = (os.path.join(folder, name) for name in ("whole", "resumed", "c"))
    common = [*SMALL, "--lr", "0.1"]
    saving = [*common, "--checkpoints", checkpoints, "--checkpoint-every", "2"]
    Run(context, 2, [*common, "--workers", "1", "--save", whole]).check_result(2, "resnet8")
    # 4 steps an epoch: step 6 lies within the second one.
    failed = Run(context, 2, [*saving, "--fail-at", "7", "--fail-rank", "1"])
    failed.check(failed.code == 1, "it was to fail")
    run = Run(context, 2, [*saving, "--resume", "--workers", "2", "--save", resumed])
    run.check_result(2, "resnet8")
    # mpirun ends rank 0 when rank 1 has failed: on a busy machine, before the save of step 6 counts.
    run.check(any(f"resumed at step {step}" in run.stdout for step in (6, 4)), "it must say where it goes on")
    assert bytes_of(whole) == bytes_of(resumed), "the resumed run has other weights"
    # Another number of ranks goes on as well; what is over stays over.
    run = Run(context, 1, [*saving, "--resume", "--epochs", "3"])
    run.check_result(1, "resnet8")
    run.check("resumed at step 8" in run.stdout, "it must say where it goes on")
    Run(context, 2, [*common, "--weights", whole]).check_result(2, "resnet8")
    Run(context, 2, [*common, "--weights", whole, "--classes", "7"]).check_result(2, "resnet8")
    Run(context, 2, [*common, "--weights", checkpoints + "/none"]).check_error(1, "c/none: cannot be opened")
    Run(context, 1, [*saving, "--resume", "--arch", "resnet14"]).check_error(1, "made with arch 'resnet8'")
    check_stop(context, os.path.join(folder, "d"))
    Run(context, 1, [*SMALL, "--resume"]).check_error(2, "--resume: needs --checkpoints")


def main():
    groups = {"training": test_training, "usage": test_usage, "data": test_data, "folder": test_folder,
              "failure": test_failure, "memory": test_memory, "resume": test_resume}
    parser = example_runs.parser_of(__doc__, "--draw", "--mpirun")
    parser.add_argument("--group", choices=groups)
    context = parser.parse_args()
    return example_runs.run_tests(context, [test for name, test in groups.items() if context.group in (None, name)])


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/06_preprocess: what it writes, what it says, and what is left when it or a worker is killed.

    preprocess_program_test.py --program PREPROCESS --draw DATA_LOADER

After every run there must be no process and no shared-memory object that was not there before.
"""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

import example_runs

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/images/fixtures")


class Run(example_runs.Run):
    name = "preprocess"


def draw(context, folder, per_class):
    """JPEG files in three folders."""
    subprocess.run([context.draw, "--folder", folder, "--pictures", str(per_class), "--epochs", "0"], check=True,
                   capture_output=True, timeout=120)
    return sorted(os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder)
                  for name in names)


def files_below(folder):
    """Without what a program that was killed had not given its name yet."""
    return sorted(os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder)
                  for name in names if not name.endswith(".tmp"))


def check_whole(path, side):
    """The bytes of a picture of this size; a file that ends too early, or has more, is none."""
    with open(path, "rb") as file:
        content = file.read()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    assert header["image"]["dtype"] == "U8" and header["image"]["shape"] == [3, side, side], header
    pixels = content[8 + length :]
    assert len(pixels) == 3 * side * side, f"{path}: {len(pixels)} bytes of pixels"
    return pixels


def check_all(output, pictures, side):
    assert files_below(output) == [name + ".safetensors" for name in pictures], files_below(output)
    return {name: check_whole(os.path.join(output, name + ".safetensors"), side) for name in pictures}


class Started:
    """A run that is killed, or whose workers are."""

    def __init__(self, context, arguments):
        self.marker = f"LOCKSTEP_TEST_RUN={os.getpid()}_{time.monotonic_ns()}"
        name, value = self.marker.split("=")
        self.process = subprocess.Popen([context.program, *arguments], env={**os.environ, name: value},
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_files(self, output, count):
        while self.process.poll() is None and len(files_below(output)) < count:
            time.sleep(0.001)

    def workers(self):
        found = []
        for path in example_runs.processes_with(self.marker):
            pid = path.split("/")[2]
            try:
                with open(f"/proc/{pid}/comm", encoding="ascii") as file:
                    if file.read().startswith("lockstep-w"):
                        found.append(int(pid))
            except OSError:
                pass  # it ended meanwhile
        return found

    def finish(self):
        stdout, stderr = self.process.communicate(timeout=120)
        assert not example_runs.wait_until_gone(lambda: example_runs.processes_with(self.marker)), "a process is left over"
        return self.process.returncode, stdout, stderr


def test_results(context, scratch):
    """Each number of workers gives the same files; a second run does nothing, and one with a new picture that one."""
    pictures = os.path.join(scratch, "pictures")
    names = draw(context, pictures, 4)
    first = None
    for workers in (1, 2, 3):
        output = os.path.join(scratch, f"output{workers}")
        run = Run(context, None, [pictures, output, "--side", "48", "--workers", str(workers)])
        run.check(run.code == 0 and run.stderr == "", "it must succeed without a word on stderr")
        run.check(run.stdout.startswith("12 pictures, of which 0 are done\n"), "it says what there is")
        run.check("; 0 workers were replaced" in run.stdout, "it says that nothing went wrong")
        contents = check_all(output, names, 48)
        assert len(set(contents.values())) == 12, "two pictures are alike"
        first = first or contents
        assert contents == first, "workers change nothing"
        again = Run(context, None, [pictures, output, "--side", "48"])
        again.check(again.code == 0 and again.stdout == "12 pictures, of which 12 are done\n", "nothing is left to do")
    os.remove(os.path.join(scratch, "output1", names[0] + ".safetensors"))
    run = Run(context, None, [pictures, os.path.join(scratch, "output1"), "--side", "48"])
    run.check(run.stdout.startswith("12 pictures, of which 11 are done\n"), "one is left to do")
    assert check_all(os.path.join(scratch, "output1"), names, 48) == first
    # Another size, and a picture that is older than its result: everything, or this one, is made again.
    run = Run(context, None, [pictures, os.path.join(scratch, "output1"), "--side", "32"])
    run.check(run.stdout.startswith("12 pictures, of which 0 are done\n"), "none has this size")
    check_all(os.path.join(scratch, "output1"), names, 32)
    os.utime(os.path.join(pictures, names[3]), (1, 1))
    run = Run(context, None, [pictures, os.path.join(scratch, "output1"), "--side", "32"])
    run.check(run.stdout.startswith("12 pictures, of which 11 are done\n"), "one picture was replaced")


def test_bad_pictures(context, scratch):
    """They are named, and the others are done."""
    pictures = os.path.join(scratch, "pictures")
    os.mkdir(pictures)
    for name in ("rgb_420.jpg", "palette.png", "one_pixel.jpg"):
        shutil.copy(os.path.join(FIXTURES, name), pictures)
    with open(os.path.join(pictures, "broken.jpg"), "w", encoding="ascii") as file:
        file.write("no picture")
    output = os.path.join(scratch, "output")
    run = Run(context, None, [pictures, output, "--side", "16"])
    run.check(run.code == 1, "a picture that was not done is an error")
    run.check("broken.jpg" in run.noise()[0], "it is named")
    run.check(run.errors() == ["preprocess: 1 of 4 pictures were not done"], "and counted")
    check_all(output, ["one_pixel.jpg", "palette.png", "rgb_420.jpg"], 16)
    missing = Run(context, None, [os.path.join(scratch, "nothing"), output])
    missing.check(missing.code == 2 and len(missing.errors()) == 1, "a folder that is not there is a mistake")


def test_kills(context, scratch):
    """Whoever kills it finds whole files only, and the next run goes on with what is missing."""
    chance = random.Random(7)
    pictures = os.path.join(scratch, "pictures")
    names = draw(context, pictures, 12)
    output = os.path.join(scratch, "output")
    os.mkdir(output)
    for _ in range(4):
        started = Started(context, [pictures, output, "--side", "64"])
        started.wait_for_files(output, len(files_below(output)) + chance.randrange(1, 8))
        started.process.send_signal(signal.SIGKILL)
        started.finish()
        for name in files_below(output):
            check_whole(os.path.join(output, name), 64)
    done = len(files_below(output))
    run = Run(context, None, [pictures, output, "--side", "64"])
    run.check(run.code == 0, "the last run finishes")
    run.check(run.stdout.startswith(f"36 pictures, of which {done} are done\n"), "it goes on where it was")
    killed = check_all(output, names, 64)
    whole = os.path.join(scratch, "whole")
    Run(context, None, [pictures, whole, "--side", "64"])
    assert check_all(whole, names, 64) == killed, "kills have changed a file"


def stopped_in_the_middle(context, scratch, pictures, count):
    """A run that stands still, its folder, and its workers: it is not over before one of them is replaced."""
    for attempt in range(20):  # a run may be over before this script gets a core again
        output = os.path.join(scratch, f"output{attempt}")
        os.mkdir(output)
        started = Started(context, [pictures, output, "--side", "64"])
        started.wait_for_files(output, 1)
        started.process.send_signal(signal.SIGSTOP)
        workers = started.workers()
        # What is not there yet, a worker still has to write.
        if started.process.poll() is None and workers and len(files_below(output)) < count:
            return started, output, workers
        started.process.send_signal(signal.SIGCONT)
        started.finish()
    raise AssertionError("no run could be stopped before it was over")


def test_killed_worker(context, scratch):
    """It costs a try, and is counted; whichever picture it had is done."""
    pictures = os.path.join(scratch, "pictures")
    names = draw(context, pictures, 40)
    started, output, workers = stopped_in_the_middle(context, scratch, pictures, len(names))
    killed = workers[0]
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while killed in started.workers() or len(started.workers()) < 2:
        assert time.monotonic() < deadline, "nobody takes its place"
        time.sleep(0.001)
    started.process.send_signal(signal.SIGCONT)
    code, stdout, stderr = started.finish()
    assert code == 0 and stderr == "", stderr
    check_all(output, names, 64)
    assert "; 1 workers were replaced" in stdout, stdout


def main():
    context = example_runs.parser_of(__doc__, "--draw").parse_args()
    return example_runs.run_tests(context, [test_results, test_bad_pictures, test_kills, test_killed_worker])


if __name__ == "__main__":
    sys.exit(main())

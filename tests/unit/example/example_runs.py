# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of the examples' programs share: their arguments, runs with what they printed and left, and how tests are told.

Each of these tests is called with a context, the parsed arguments, and with a folder of its own.
"""

import argparse
import contextlib
import glob
import os
import signal
import subprocess
import tempfile
import time
import traceback

# A hang is a failure, not a long test.
TIME_LIMIT = 200
IMAGES = "/usr/share/datasets/fashion-mnist"


class Run:
    """One run of the program, with what it printed."""

    name = ""  # what its own lines on stderr begin with

    def __init__(self, context, ranks, arguments, launch=(), environment=None):
        self.arguments = arguments
        before = shared_memory_objects()
        marker = f"LOCKSTEP_TEST_RUN={os.getpid()}_{time.monotonic_ns()}"
        # A rank that fails waits for what the others have to say, and a busy machine gives them no core for seconds.
        variables = dict(os.environ, OMPI_MCA_orte_execute_quiet="1", OMP_NUM_THREADS="1", LOCKSTEP_EXAMPLE_WAIT_S="60")
        variables[marker.split("=")[0]] = marker.split("=")[1]
        variables.update(environment or {})
        mpirun = [] if ranks is None else [context.mpirun, str(ranks)]
        command = [*launch, *mpirun, context.program, *arguments]
        started = time.monotonic()
        try:
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIME_LIMIT,
                                  check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as error:
            for path in processes_with(marker):  # mpirun, which was killed, has not told its ranks
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
            raise AssertionError(f"{command} hangs\nstdout: {error.stdout}\nstderr: {error.stderr}") from None
        self.seconds = time.monotonic() - started
        self.code = done.returncode
        self.stdout = done.stdout.replace("\r\n", "\n")
        self.stderr = done.stderr.replace("\r\n", "\n")
        self.check(not wait_until_gone(lambda: processes_with(marker)), "a process is left over")
        # Other tests that run meanwhile have objects for moments.
        new = shared_memory_objects() - before
        self.check(not wait_until_gone(lambda: new & shared_memory_objects()), "a shared-memory object is left over")

    def check(self, holds, claim):
        if not holds:
            raise AssertionError(f"{claim}\n{self.name} {' '.join(self.arguments)}\nexit code {self.code}, "
                                 f"{self.seconds:.1f} s\nstdout: {self.stdout}\nstderr: {self.stderr}")

    def errors(self):
        """The program's own lines on stderr."""
        return [line for line in self.stderr.splitlines() if line.startswith(self.name + ": ")]

    def noise(self):
        """Lines on stderr of neither the program nor mpirun's banners."""
        lines = self.stderr.splitlines()
        banner = False
        result = []
        for line in lines:
            if line.startswith("-----"):
                banner = not banner
            elif not banner and line.strip() and not line.startswith(self.name + ": "):
                result.append(line)
        return result

    def check_error(self, code, *parts, lines=1):
        """`lines` lines on stderr and nothing else; the first holds all `parts`."""
        self.check(self.code == code, f"the exit code must be {code}")
        self.check(len(self.errors()) == lines, f"there must be {lines} line(s) of the program on stderr")
        self.check(not self.noise(), f"stderr has more than the program's lines: {self.noise()}")
        for part in parts:
            self.check(part in self.errors()[0], f"the message must hold '{part}'")


def parser_of(description, *names):
    """Knows --program and the arguments that are named; with --mpirun also --without-mpi, by which `mpi` is false."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--program", *names):
        parser.add_argument(name, required=True)
    if "--mpirun" in names:
        parser.add_argument("--without-mpi", dest="mpi", action="store_false", help="the program was built without MPI")
    return parser


def worlds(context):
    """Numbers of ranks; None is a run without mpirun."""
    return [None, 2] if context.mpi else [None]


def skipped_without(path):
    """The exit status of a test whose data this machine lacks."""
    print(f"skipped: there is no {path}")
    return 77


def run_tests(context, tests):
    """Calls each test with a scratch folder and its arguments: functions, or pairs of a function and a tuple. The exit status."""
    failures = 0
    for entry in tests:
        test, arguments = entry if isinstance(entry, tuple) else (entry, ())
        name = " ".join([test.__name__, *map(str, arguments)])
        try:
            with tempfile.TemporaryDirectory() as scratch:
                test(context, scratch, *arguments)
            print(f"{name}: passed")
        except AssertionError as error:
            failures += 1
            print(f"{name}: FAILED: {error}")
        except Exception:  # a mistake of one test must not keep the others from being run
            failures += 1
            print(f"{name}: FAILED: {traceback.format_exc()}")
    return 1 if failures else 0


def shared_memory_objects():
    return set(glob.glob("/dev/shm/lockstep*"))


def processes_with(marker):
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if marker.encode() in file.read().split(b"\0"):
                    found.append(path)
        except OSError:
            pass  # it ended meanwhile, or belongs to someone else
    return found


def wait_until_gone(find):
    """What `find` still finds after a minute."""
    for _ in range(600):
        left = find()
        if not left:
            break
        time.sleep(0.1)
    return left


def bytes_of(path):
    with open(path, "rb") as file:
        return file.read()


def write_tokens(context, folder, lines=400):
    text = os.path.join(folder, "text")
    with open(text, "w", encoding="ascii") as file:
        file.writelines(f"{number} and {number} are {2 * number}.\n" for number in range(lines))
    subprocess.run([context.text_to_tokens, text, folder], check=True, capture_output=True)

# SPDX-License-Identifier: BSD-3-Clause
"""Runs the checks of docs/gpu.md one after the other, each with a limit of its own, and prints one line for each.

A check that fails does not stop those behind it. Exit status: 0 all passed, 1 something failed, 2 wrong arguments.
Started by run.sh.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# NCCL in the order in which the ways are tried; see docs/gpu.md.
SEVERAL_RANKS = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "4"}
# What a graph of ResNet-18's step at batch 4 is for. Eagerly, the host launches about a thousand kernels, and the GPU waits for it
# most of the time: a step that is not faster by half was not captured as a whole. A graph costs the host its copies of the
# batch, one launch and one event.
GRAPHED_HOST_MS, GRAPHED_SPEEDUP = 0.2, 1.5
LOOPBACK = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_HOSTID": "host of rank {rank}"}


class Failed(Exception):
    """A check did not pass. `figures`: what it measured before."""

    def __init__(self, text, figures=None):
        super().__init__(text)
        self.figures = figures or {}


class Skipped(Exception):
    """A check could not be made here, or not all of it. `figures`: what it measured before."""

    def __init__(self, text, figures=None):
        super().__init__(text)
        self.figures = figures or {}


class Way:
    """How two ranks use one GPU. `environment`: values of all ranks, or a list with one of each."""

    def __init__(self, name, backend, environment):
        self.name, self.backend, self.environment = name, backend, environment

    def of_rank(self, rank):
        return {key: value[rank] if isinstance(value, list) else value.format(rank=rank)
                for key, value in self.environment.items()}


class Outcome:
    """What a process of a check has left."""

    def __init__(self, status, text):
        self.status, self.text = status, text
        self.figures, self.error = {}, ""
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "figure" and "=" in rest:
                name, value = rest.split("=", 1)
                self.figures[name] = number_of(value)
            elif kind == "error":
                self.error = rest


def number_of(value):
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() and "." not in value and "e" not in value else number


PORTS = itertools.count(os.getpid() * 61)


def free_port():
    """Below the ports that the kernel gives to whoever asks for any (from 32768), and other ones in processes that
    run at the same time, with few exceptions: hardly anybody takes it before it is used."""
    for _ in range(20000):
        port = 10000 + next(PORTS) % 20000
        with socket.socket() as probe:
            # As those who listen there do it: connections that have ended are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise Failed("there is no free port")


def libraries():
    """Folders with the libraries that the programs need: packed ones, and those of the wheels."""
    packages = Path(importlib.util.find_spec("torch").origin).resolve().parent.parent
    folders = [HERE / "lib", packages / "torch" / "lib", *sorted((packages / "nvidia").glob("*/lib"))]
    return [str(folder) for folder in folders if folder.is_dir()]


class Checks:
    """The steps, and what later ones know from earlier ones."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.is_cpu = arguments.cpu
        self.way = None
        self.obstacle = "no way of step 3 works"
        self.folder = Path(tempfile.mkdtemp(prefix="lockstep_gpu_"))
        self.deadline = 0.0
        self.machine = {}
        paths = [*libraries(), os.environ.get("LD_LIBRARY_PATH", "")]
        self.environment = dict(os.environ, LD_LIBRARY_PATH=":".join(filter(None, paths)), OMP_NUM_THREADS="1")
        if arguments.cpu:
            self.environment["CUDA_VISIBLE_DEVICES"] = ""
        if arguments.nccl:
            self.environment["LD_PRELOAD"] = arguments.nccl

    def steps(self):
        return [
            (0, 10, "describe", self.describe),
            (1, 30, "one_rank", self.one_rank),
            (2, 40, "staging", self.staging),
            (3, 60, "nccl", self.nccl),
            (4, 60, "ddp", self.ddp),
            (5, 40, "faults", self.faults),
            (6, 40, "overlap", self.overlap),
            (7, 40, "graphed", self.graphed),
            (8, 60, "pinned", self.pinned),
            (9, 90, "resnet50", self.resnet50),
            (10, 30, "growth", self.growth),
        ]

    # --- processes ---

    def run(self, check, ranks=1, way=None, expected=None, python=False, **options):
        """Runs a check on some ranks. `expected`: exit statuses of ranks where they are not 0. `options`: of the program.
        Returns the outcomes of the ranks; throws where one has another status, with the first error."""
        command = [sys.executable, str(HERE / "resnet50.py")] if python else [self.arguments.program, check]
        if self.is_cpu:
            command += ["--cpu"]
        backend = way.backend if way else None
        if backend and not python:
            command += ["--backend", backend]
        for name, value in options.items():
            command += ["--" + name, str(value)]
        port = str(free_port())
        processes = []
        try:
            for rank in range(ranks):
                environment = dict(self.environment)
                if python:  # the packed libraries are not its own
                    environment["LD_LIBRARY_PATH"] = os.environ.get("LD_LIBRARY_PATH", "")
                if ranks > 1:
                    environment |= {
                        "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                        "TORCHELASTIC_RUN_ID": f"gpu checks {port}", "TORCHELASTIC_RESTART_COUNT": "0",
                    }
                environment |= way.of_rank(rank) if way else {}
                output = open(self.folder / f"rank{rank}.txt", "w+", encoding="utf-8")
                processes.append((subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT,
                                                   start_new_session=True), output))
            outcomes = self.wait_for(processes, expected or {})
        finally:
            for process, output in processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                output.close()
        for rank, outcome in enumerate(outcomes):
            if outcome.status != (expected or {}).get(rank, 0):
                lines = outcome.text.strip().splitlines()
                text = outcome.error or (lines[-1] if lines else "") or "no output"
                if outcome.status is None:
                    text = "did not end in time: " + text
                elif not outcome.error:
                    text = f"exit status {outcome.status}: " + text
                raise Failed(f"{check}, rank {rank}: {text}", outcomes[0].figures)
        return outcomes

    def wait_for(self, processes, expected):
        """The outcomes of all ranks; status None: still running at the end of the step's time, or not waited for."""
        for rank, (process, _) in enumerate(processes):
            if rank in expected and expected[rank] is None:
                continue  # it has stopped, and does not end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, self.deadline - time.monotonic()))
        outcomes = []
        for process, output in processes:
            output.flush()
            output.seek(0)
            outcomes.append(Outcome(process.poll(), output.read()))
        return outcomes

    def ways(self):
        """The ways in which two ranks may talk to each other by NCCL, in order."""
        if self.is_cpu:
            return [Way("gloo", "gloo", {}), Way("shared_memory", "shared_memory", {})]
        ways = []
        if self.machine.get("gpus", 1) > 1:
            # Those that this job was given, on a machine with others.
            visible = [name for name in self.environment.get("CUDA_VISIBLE_DEVICES", "0,1").split(",") if name.strip()]
            ways.append(Way("a GPU a rank", "nccl", {"CUDA_VISIBLE_DEVICES": visible}))
        version = str(self.machine.get("nccl", "0"))
        numbers = [int(part) for part in version.split(".") if part.isdigit()]
        if numbers >= [2, 30]:
            ways.append(Way("A", "nccl", SEVERAL_RANKS))
        ways.append(Way("B", "nccl", LOOPBACK))
        return ways

    def chosen_way(self):
        if self.way is None:
            raise Skipped(self.obstacle)
        return self.way

    def memory_way(self):
        return Way("shared_memory", "shared_memory", {})

    # --- steps ---

    def describe(self):
        of_python = importlib.metadata.version("torch")
        self.machine = self.run("describe")[0].figures
        self.machine |= {"glibc": platform.libc_ver()[1], "python_torch": of_python,
                         "shm_mib": shutil.disk_usage("/dev/shm").total >> 20}
        query = "name,driver_version,compute_mode,mig.mode.current,memory.total"
        if not self.is_cpu and shutil.which("nvidia-smi"):
            told = subprocess.run(["nvidia-smi", "--query-gpu=" + query, "--format=csv,noheader"], capture_output=True,
                                  text=True, timeout=8, check=False)
            values = told.stdout.strip().splitlines()[0].split(", ") if told.stdout.strip() else []
            self.machine |= dict(zip(["gpu", "driver", "compute_mode", "mig", "memory"], values))
        self.machine["mps"] = bool(shutil.which("nvidia-cuda-mps-control"))
        if self.machine["torch"].split(".")[:2] != of_python.split(".")[:2]:
            raise Failed(f"the programs were built for torch {self.machine['torch']}, this Python has {of_python}",
                         self.machine)
        return self.machine

    def one_rank(self):
        way = None if self.is_cpu else Way("nccl", "nccl", {})
        return self.run("one_rank", way=way)[0].figures

    def staging(self):
        figures = self.run("collectives", 2, self.memory_way())[0].figures
        return figures | self.run("ddp", 2, self.memory_way())[0].figures

    def nccl(self):
        errors = []
        ways = self.ways()
        end = self.deadline
        for tried, way in enumerate(ways):
            # A way may hang; the others have their share of the time.
            self.deadline = time.monotonic() + (end - time.monotonic()) / (len(ways) - tried)
            with self.multi_process_service(way):
                try:
                    figures = self.run("collectives", 2, way)[0].figures
                except Failed as error:
                    errors.append(f"{way.name}: {error}")
                    continue
            self.way = way
            return {"way": way.name} | figures
        raise Failed("; ".join(errors))

    @contextlib.contextmanager
    def multi_process_service(self, way):
        """MPS, where two processes share a GPU and the machine has it: without it, kernels take turns."""
        if self.is_cpu or way.name != "A" or not shutil.which("nvidia-cuda-mps-control"):
            yield
            return
        before = dict(self.environment)
        self.environment |= {"CUDA_MPS_PIPE_DIRECTORY": str(self.folder / "mps"),
                             "CUDA_MPS_LOG_DIRECTORY": str(self.folder / "mps_log")}
        for name in ("mps", "mps_log"):
            (self.folder / name).mkdir(exist_ok=True)
        control = ["nvidia-cuda-mps-control"]
        started = subprocess.run([*control, "-d"], env=self.environment, capture_output=True, timeout=10, check=False)
        if started.returncode != 0:
            self.environment = before
        try:
            yield
        finally:
            if started.returncode == 0:
                subprocess.run(control, env=self.environment, input=b"quit\n", capture_output=True, timeout=20, check=False)
            self.environment = before

    def ddp(self):
        with self.multi_process_service(self.chosen_way()):
            return self.run("ddp", 2, self.chosen_way())[0].figures

    def faults(self):
        # Gloo does not know which rank has gone.
        way = self.memory_way() if self.is_cpu or self.way is None else self.way
        figures = {"way": way.name}
        # Without MPS, which says nothing about the others when one of its clients is killed.
        killed = self.run("fault", 2, way, {1: -signal.SIGKILL}, mode="kill")[0]
        figures["killed_s"] = killed.figures.get("noticed_after_s")
        stopped = self.run("fault", 2, way, {1: None}, mode="stop")[0]
        figures["stopped_s"] = stopped.figures.get("noticed_after_s")
        left = self.run("fault", 2, way, mode="leave")
        figures["left_s"] = max(one.figures.get("left_after_s", 0) for one in left)
        return figures

    def overlap(self):
        folder = self.folder / "traces"
        way = self.memory_way() if self.is_cpu and self.way is None else self.way
        if way is None:  # copies are hidden in a world of one too
            figures = self.run("overlap", way=Way("nccl", "nccl", {}), folder=folder)[0].figures
            raise Skipped(self.obstacle + ", so that only copies were looked at", figures)
        with self.multi_process_service(way):
            return self.run("overlap", 2, way, folder=folder)[0].figures

    def graphed(self):
        alone = None if self.is_cpu else Way("nccl", "nccl", {})
        figures = self.run("graphed", way=alone)[0].figures
        problems = []
        if not self.is_cpu:  # which has no graphs
            figures |= {"wanted_host_ms": GRAPHED_HOST_MS, "wanted_speedup": GRAPHED_SPEEDUP}
            if figures["graphed_host_ms"] > GRAPHED_HOST_MS:
                problems.append(f"a graphed step takes more than {GRAPHED_HOST_MS} ms of the host")
            if figures["graphed_speedup"] < GRAPHED_SPEEDUP:
                problems.append(f"a graphed step is less than {GRAPHED_SPEEDUP} times as fast as an eager one")
        if self.way is not None:
            try:
                with self.multi_process_service(self.way):
                    self.run("graphed", 2, self.way)
            except Failed as failure:  # what a world of one has shown still counts
                problems.append(f"with two ranks: {failure}")
                figures |= {"two_ranks_" + name: value for name, value in failure.figures.items()}
        if problems:
            raise Failed("; ".join(problems), figures)
        if self.way is None:
            raise Skipped(self.obstacle + ", so that only a world of one was looked at", figures)
        return figures

    def pinned(self):
        return self.run("pinned")[0].figures

    def resnet50(self):
        sides = {"alone": {"mode": "alone"}, "ddp": {"mode": "ddp"}, "python": {"python": True}}
        speeds = {name: [] for name in sides}
        for turn in range(1 if self.is_cpu else 2):
            for name, options in sides.items():
                if turn > 0 and self.deadline - time.monotonic() < 25:
                    break
                speeds[name].append(self.run("resnet50", **options)[0].figures["images_per_s"])
        median = {name: statistics.median(values) for name, values in speeds.items()}
        figures = {name + "_images_per_s": round(value, 1) for name, value in median.items()}
        if not self.is_cpu and median["alone"] * 1.02 < median["python"]:
            raise Failed("C++ is more than 2 % slower than Python", figures)
        if not self.is_cpu and median["ddp"] * 1.02 < median["alone"]:
            raise Failed("DDP in a world of one costs more than 2 %", figures)
        return figures

    def growth(self):
        return self.run("growth", way=None if self.is_cpu else Way("nccl", "nccl", {}))[0].figures

    # --- the whole ---

    def prepare(self, limit, step):
        """Makes a step that was not asked for, for what those that were need to know."""
        self.deadline = time.monotonic() + limit * self.arguments.patience
        try:
            step()
        except Exception as failure:  # those steps do without it, and say what is missing
            self.obstacle = f"{self.obstacle}: {failure}"

    def run_all(self):
        """Returns the steps as they go into the file."""
        wanted = {int(number) for number in self.arguments.only.split(",")} if self.arguments.only else None
        done = []
        if wanted is not None and 0 not in wanted:
            self.prepare(10, self.describe)
        if wanted is not None and 3 not in wanted and wanted & {4, 5, 6, 7}:
            self.prepare(60, self.nccl)
        end = time.monotonic() + 600 * self.arguments.patience
        for number, limit, name, step in self.steps():
            if wanted is not None and number not in wanted:
                continue
            begin = time.monotonic()
            self.deadline = min(begin + self.arguments.limits.get(number, limit * self.arguments.patience), end)
            status, error, figures = "PASS", "", {}
            try:
                if begin >= end:
                    raise Skipped("no time is left of the ten minutes")
                figures = step()
            except Skipped as reason:
                status, error, figures = "SKIP", str(reason), reason.figures
            except Failed as failure:
                status, error, figures = "FAIL", str(failure), failure.figures
            except Exception as failure:  # the script's own mistakes are no reason to stop either
                status, error = "FAIL", f"{type(failure).__name__}: {failure}"
            seconds = round(time.monotonic() - begin, 1)
            done.append({"step": number, "name": name, "status": status, "seconds": seconds, "figures": figures,
                         "error": error})
            print(line_of(done[-1]), flush=True)
            write(self.arguments.json, {"machine": self.machine, "cpu": self.is_cpu, "steps": done})
        return done


def line_of(step):
    figures = " ".join(f"{name}={value}" for name, value in step["figures"].items())
    text = " ".join(step["error"].split())
    return " ".join(filter(None, [step["status"], str(step["step"]), step["name"], f"{step['seconds']} s", figures, text]))


def write(path, content):
    """Whole at any moment."""
    new = Path(str(path) + ".new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def limits_of(text):
    """{step: seconds} of 2=15,3=40"""
    return {int(step): float(seconds) for step, seconds in (word.split("=") for word in text.split(","))}


def find_program():
    for path in (HERE / "bin" / "gpu_checks", HERE / "../../build/release/tests/gpu/gpu_checks"):
        if path.is_file():
            return str(path.resolve())
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("gpu_checks.json"), help="where the results go")
    parser.add_argument("--only", help="numbers of steps, as 0,3,4")
    parser.add_argument("--nccl", help="a libnccl.so.2 to use instead of the wheel's, for way A")
    parser.add_argument("--cpu", action="store_true", help="small, without a GPU")
    parser.add_argument("--program", default=find_program(), help="gpu_checks")
    parser.add_argument("--patience", type=float, default=1, help="times all limits, for a busy machine")
    parser.add_argument("--limits", type=limits_of, default={}, help="seconds of single steps, as 2=15,3=40")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("there is no gpu_checks here: build the target gpu_checks, or unpack what pack.sh has packed")
    checks = Checks(arguments)
    try:
        done = checks.run_all()
    finally:
        shutil.rmtree(checks.folder, ignore_errors=True)
    counts = {status: sum(step["status"] == status for step in done) for status in ("PASS", "FAIL", "SKIP")}
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped; {arguments.json}")
    return 1 if counts["FAIL"] or counts["SKIP"] else 0


if __name__ == "__main__":
    sys.exit(main())

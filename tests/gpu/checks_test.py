# SPDX-License-Identifier: BSD-3-Clause
"""Tests tests/gpu/run.sh and pack.sh where there is no GPU: with the real program on the CPU, and with one that is made up.

Usage: checks_test.py --program GPU_CHECKS
"""

import argparse
import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import checks

HERE = Path(__file__).resolve().parent
PROGRAM = None
LONG = ["--patience", "4"]  # so that what must pass has time on a busy machine; only what must hang gets a short limit
NAMES = ["describe", "one_rank", "staging", "nccl", "ddp", "faults", "overlap", "graphed", "pinned", "resnet50", "growth"]
# Does what it is told in variables: FAIL="check ...", HANG="check ...", SLOW="check ...", with "check:backend" for one backend alone.
FAKE = """#!{python}
import os, signal, sys, time
check, options = sys.argv[1], sys.argv[2:]
backend = options[options.index("--backend") + 1] if "--backend" in options else ""
mode = options[options.index("--mode") + 1] if "--mode" in options else ""
told = lambda name: {{check, check + ":" + backend, check + ":" + mode}} & set(os.environ.get(name, "").split())
if check == "describe":
    print("figure torch={torch}\\nfigure gpus=0\\nfigure nccl=2.28.9")
if told("SLOW"):
    time.sleep(1.5)
if told("HANG"):
    print("figure before=1", flush=True)
    time.sleep(600)
if told("FAIL"):
    print("figure before=2\\nerror what went wrong")
    sys.exit(1)
if told("CRASH"):
    print("some text", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if check == "fault" and os.environ.get("RANK") == "1" and not told("SPARE") and mode != "leave":
    os.kill(os.getpid(), signal.SIGKILL if mode == "kill" else signal.SIGSTOP)
print("figure images_per_s=100.5" if check == "resnet50" else "figure rank=" + os.environ.get("RANK", "0"))
"""


def run(*arguments, program=None, **environment):
    """Exit status, lines, and content of the file of a run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [HERE / "run.sh", "--json", path, "--program", program or PROGRAM, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=380, check=False,
                              env=dict(os.environ, LOCKSTEP_PYTHON=sys.executable, **environment))
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return done.returncode, done.stdout.splitlines(), content, done.stderr


@functools.cache
def steps():
    """The numbers of those that can be made here: one compares with Python's torch, whose dependencies may be missing."""
    has_torch = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    return [number for number, name in enumerate(NAMES) if has_torch or name != "resnet50"]


def only_steps():
    return [] if len(steps()) == len(NAMES) else ["--only", ",".join(map(str, steps()))]


class FakeProgram(unittest.TestCase):
    """The script, whatever the program does."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.program = self.folder / "gpu_checks"
        self.program.write_text(FAKE.format(python=sys.executable, torch=version("torch")), encoding="utf-8")
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def run_fake(self, *arguments, **environment):
        return run("--cpu", *arguments, program=self.program, **environment)

    def statuses(self, lines):
        return {line.split()[2]: line.split()[0] for line in lines[:-1]}

    def test_each_step_has_a_line_and_an_entry(self):
        status, lines, content, errors = self.run_fake(*LONG, *only_steps())
        self.assertEqual(status, 0, (lines, errors))
        names = [NAMES[number] for number in steps()]
        self.assertEqual(self.statuses(lines), {name: "PASS" for name in names})
        self.assertTrue(lines[-1].startswith(f"{len(names)} passed, 0 failed, 0 skipped; "), lines[-1])
        self.assertEqual([step["step"] for step in content["steps"]], steps())
        self.assertEqual([step["name"] for step in content["steps"]], names)
        self.assertEqual(content["machine"]["nccl"], "2.28.9")
        by_name = {step["name"]: step for step in content["steps"]}
        self.assertEqual(by_name["nccl"]["figures"], {"way": "gloo", "rank": 0})
        if "resnet50" in names:
            self.assertEqual(by_name["resnet50"]["figures"]["alone_images_per_s"], 100.5)
            self.assertGreater(by_name["resnet50"]["figures"]["python_images_per_s"], 0)

    def test_what_fails_crashes_or_hangs_stops_nothing_else(self):
        status, lines, content, _ = self.run_fake("--only", "1,2,8,10", *LONG, "--limits", "2=15", FAIL="one_rank",
                                                  HANG="collectives", CRASH="pinned")
        self.assertEqual(status, 1)
        self.assertEqual(self.statuses(lines), {"one_rank": "FAIL", "staging": "FAIL",
                                                "pinned": "FAIL", "growth": "PASS"})
        by_name = {step["name"]: step for step in content["steps"]}
        self.assertEqual(by_name["one_rank"]["error"], "one_rank, rank 0: what went wrong")
        self.assertEqual(by_name["one_rank"]["figures"], {"before": 2})
        self.assertEqual(by_name["staging"]["error"], "collectives, rank 0: did not end in time: figure before=1")
        self.assertEqual(by_name["pinned"]["error"], "pinned, rank 0: exit status -11: some text")
        self.assertIn("what went wrong", next(line for line in lines if " one_rank " in line))
        self.assertTrue(lines[-1].startswith("1 passed, 3 failed, 0 skipped; "), lines[-1])

    def test_the_second_way_serves_where_the_first_does_not(self):
        _, lines, content, _ = self.run_fake("--only", "3,4", FAIL="collectives:gloo")
        self.assertEqual(self.statuses(lines), {"nccl": "PASS", "ddp": "PASS"})
        self.assertEqual(content["steps"][0]["figures"]["way"], "shared_memory")

    def test_a_way_that_hangs_leaves_time_for_the_next(self):
        _, lines, content, _ = self.run_fake("--only", "3,4", *LONG, "--limits", "3=40", HANG="collectives:gloo",
                                             SLOW="collectives:shared_memory")
        self.assertEqual(self.statuses(lines), {"nccl": "PASS", "ddp": "PASS"})
        self.assertEqual(content["steps"][0]["figures"]["way"], "shared_memory")

    def test_a_step_alone_knows_what_it_needs(self):
        _, lines, content, _ = self.run_fake("--only", "4,5,7")
        self.assertEqual(self.statuses(lines), {"ddp": "PASS", "faults": "PASS", "graphed": "PASS"})
        self.assertEqual(content["machine"]["nccl"], "2.28.9")
        _, lines, content, _ = self.run_fake("--only", "4", FAIL="collectives")
        self.assertEqual(self.statuses(lines), {"ddp": "SKIP"})
        self.assertIn("no way of step 3 works: gloo: collectives, rank 0: what went wrong", content["steps"][0]["error"])

    def test_ranks_use_the_devices_that_the_job_was_given(self):
        for visible, expected in (("4,5", ["4", "5"]), (None, ["0", "1"])):
            environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
            with mock.patch.dict(os.environ, environment):
                if visible is None:
                    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
                made = checks.Checks(argparse.Namespace(cpu=False, nccl=None))
            self.addCleanup(shutil.rmtree, made.folder)
            made.machine = {"gpus": 2, "nccl": "2.28.9"}
            ways = made.ways()
            self.assertEqual([way.name for way in ways], ["a GPU a rank", "B"])
            self.assertEqual([ways[0].of_rank(rank)["CUDA_VISIBLE_DEVICES"] for rank in (0, 1)], expected)
            self.assertEqual(ways[1].of_rank(1)["NCCL_HOSTID"], "host of rank 1")

    def test_graphs_must_be_worth_it(self):
        made = checks.Checks(argparse.Namespace(cpu=False, nccl=None))
        self.addCleanup(shutil.rmtree, made.folder)
        runs = []

        def judged(host_ms, speedup, way, fails=False):
            def run(check, ranks=1, way=None):
                runs.append(ranks)
                if fails and ranks == 2:
                    raise checks.Failed("rank 0: no capture", {"graphed_host_ms": 7})
                return [argparse.Namespace(figures={"graphed_host_ms": host_ms, "graphed_speedup": speedup})]

            made.run, made.way = run, way
            return made.graphed()

        way = checks.Way("B", "nccl", {})
        wanted = {"wanted_host_ms": 0.2, "wanted_speedup": 1.5}
        self.assertEqual(judged(0.2, 1.5, way), {"graphed_host_ms": 0.2, "graphed_speedup": 1.5} | wanted)
        self.assertEqual(runs, [1, 2])
        for host_ms, speedup, text in ((0.21, 3, "more than 0.2 ms of the host"), (0.1, 1.49, "less than 1.5 times as fast")):
            for place in (way, None):
                with self.assertRaisesRegex(checks.Failed, text) as caught:
                    judged(host_ms, speedup, place)
                self.assertEqual(caught.exception.figures["wanted_speedup"], 1.5)
        with self.assertRaisesRegex(checks.Skipped, "only a world of one"):
            judged(0.1, 2, None)
        # Where two ranks cannot be captured, a world of one is judged all the same.
        for host_ms, text in ((0.1, "^with two ranks: rank 0: no capture$"),
                              (0.3, "^a graphed step takes more than 0.2 ms of the host; with two ranks: rank 0: no capture$")):
            with self.assertRaisesRegex(checks.Failed, text) as caught:
                judged(host_ms, 2, way, fails=True)
            self.assertEqual(caught.exception.figures, {"graphed_host_ms": host_ms, "graphed_speedup": 2,
                                                        "two_ranks_graphed_host_ms": 7} | wanted)

    def test_without_a_way_the_steps_that_need_one_are_skipped(self):
        status, lines, content, _ = self.run_fake("--only", "3,4,5,7", FAIL="collectives")
        self.assertEqual(status, 1)
        self.assertEqual(self.statuses(lines), {"nccl": "FAIL", "ddp": "SKIP", "faults": "PASS", "graphed": "SKIP"})
        self.assertEqual(content["steps"][1]["error"], "no way of step 3 works")
        self.assertEqual(content["steps"][3]["figures"], {"rank": 0})  # what a world of one has shown
        self.assertIn("gloo: collectives, rank 0: what went wrong; shared_memory: ", content["steps"][0]["error"])

    def test_a_rank_that_survives_its_death_is_a_failure(self):
        _, lines, content, _ = self.run_fake("--only", "5", SPARE="fault:kill")
        self.assertEqual(self.statuses(lines), {"faults": "FAIL"})
        self.assertIn("fault, rank 1: exit status 0", content["steps"][0]["error"])

    def test_another_torch_than_the_programs_is_told(self):
        self.program.write_text(self.program.read_text(encoding="utf-8").replace(version("torch"), "1.2.3"), encoding="utf-8")
        _, _, content, _ = self.run_fake("--only", "0")
        self.assertIn("the programs were built for torch 1.2.3, this Python has ", content["steps"][0]["error"])

    def test_wrong_arguments(self):
        self.assertEqual(self.run_fake("--unknown")[0], 2)


class RealProgram(unittest.TestCase):
    """All checks, small."""

    def test_all_checks_pass_on_the_cpu(self):
        status, lines, content, errors = run("--cpu", "--patience", "8", *only_steps())
        self.assertEqual(status, 0, "\n".join(lines) + errors)
        self.assertEqual([line.split()[:3] for line in lines[:-1]],
                         [["PASS", str(number), NAMES[number]] for number in steps()])
        figures = {step["name"]: step["figures"] for step in content["steps"]}
        self.assertEqual(set(figures["faults"]), {"way", "killed_s", "stopped_s", "left_s"})
        self.assertIn("communication_hidden", figures["overlap"])

    def test_wrong_arguments(self):
        for arguments in ([], ["nothing"], ["ddp", "--backend", "none"], ["ddp", "--mode"], ["ddp", "--other", "1"]):
            done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 2, arguments)
        done = subprocess.run([PROGRAM, "fault", "--cpu", "--mode", "x"], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, "error --mode is kill, stop or leave\n"))


class Package(unittest.TestCase):
    """pack.sh, with a program of the system in place of the real one."""

    def pack(self, folder, program):
        build = Path(folder) / "build"
        (build / "tests" / "gpu").mkdir(parents=True)
        shutil.copy(program, build / "tests" / "gpu" / "gpu_checks")
        return subprocess.run([HERE / "pack.sh", Path(folder) / "out" / "checks.tar.gz"], capture_output=True, text=True,
                              env=dict(os.environ, LOCKSTEP_GPU_BUILD=str(build)), timeout=120, check=False)

    def test_a_program_that_needs_mpi_is_refused(self):
        if "libmpi" not in subprocess.run(["ldd", PROGRAM], capture_output=True, text=True, check=False).stdout:
            self.skipTest("this build has no MPI")
        with tempfile.TemporaryDirectory() as folder:
            done = self.pack(folder, PROGRAM)
            self.assertEqual(done.returncode, 1)
            self.assertIn("needs MPI; build it with LOCKSTEP_WITH_MPI=OFF", done.stderr)

    def test_what_is_packed(self):
        with tempfile.TemporaryDirectory() as folder:
            done = self.pack(folder, "/bin/ls")
            self.assertEqual(done.returncode, 0, done.stderr)
            subprocess.run(["tar", "-xf", Path(folder) / "out" / "checks.tar.gz", "-C", folder], check=True)
            root = Path(folder) / "lockstep_gpu_checks"
            names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
            self.assertLessEqual({"run.sh", "checks.py", "resnet50.py", "README.md", "needs_glibc", "needs_libstdcxx",
                                  "bin/gpu_checks"}, names)
            self.assertFalse([name for name in names if name.startswith(("lib/libc.so", "lib/libtorch"))])
            needed = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
            for name in ("libselinux.so.1", "libcap.so.2"):  # what it needs, on most systems
                self.assertEqual(name in needed, f"lib/{name}" in names)
            # The script finds the packed program, which is not ours and knows no such check.
            done = subprocess.run([root / "run.sh", "--only", "1", "--cpu", "--json", root / "r.json"], capture_output=True,
                                  env=dict(os.environ, LOCKSTEP_PYTHON=sys.executable), text=True, timeout=120, check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertTrue(done.stdout.startswith("FAIL 1 one_rank "), done.stdout)
            self.assertIn("one_rank", json.loads((root / "r.json").read_text(encoding="utf-8"))["steps"][0]["error"])


if __name__ == "__main__":
    if "--program" in sys.argv:
        place = sys.argv.index("--program")
        PROGRAM = sys.argv[place + 1]
        del sys.argv[place:place + 2]
    unittest.main()

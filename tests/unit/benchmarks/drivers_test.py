#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The drivers of all benchmarks over made-up programs: their result lines and records."""

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import signal
import socket
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = str(Path(__file__).resolve().with_name("made_up_program.py"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import driver  # noqa: E402
import machine  # noqa: E402
import sides  # noqa: E402

# Driver -> arguments.
RUNS = {
    "task_pool": ["--kind", "small", "--kind", "result", "--rounds", "3"],
    "cold_read": ["--source", "bytes", "--rounds", "2", "--files", "3"],
    "ensemble": ["--rounds", "2"],
    "optimizer_step": ["--model", "small", "--ranks", "2", "--rounds", "2"],
    "pipeline": ["--rounds", "2"],
    "tensor_parallel": ["--rounds", "2"],
    "data_parallel": ["--batch", "4", "--rounds", "3", "--steps", "3"],
    "gpt": ["--rounds", "2", "--steps", "50"],
    "checkpoint": ["--arch", "resnet18", "--rounds", "2"],
    "scalar_call": ["--rounds", "3", "--calls", "1000"],
    "profiler_call": [],
    "ddp_step": ["--batch", "4", "--rounds", "2", "--steps", "3"],
    "hosts": ["--rounds", "2", "--steps", "3", "--rate", "1gbit"],
    "hooks": ["--rounds", "2", "--steps", "3", "--hooks", "fp16"],
    "collectives": ["all_reduce", "--rounds", "3", "--smallest", "262144", "--largest", "1048576"],
    "links": ["--rounds", "3", "--smallest", "16777216", "--largest", "67108864"],
    "data_loader": ["--workload", "fmnist", "--workload", "jpeg", "--rounds", "2"],
}


class Outcome:
    """What a driver printed, and the records that it appended, without what says where and when."""

    def __init__(self, name, arguments):
        module = importlib.import_module(f"{name}_driver")
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            counts, programs = os.path.join(folder, "counts"), os.path.join(folder, "programs")
            os.mkdir(counts)
            os.mkdir(programs)
            os.symlink(PROGRAM, os.path.join(programs, "mpirun"))
            environment = {name: value for name, value in os.environ.items() if "RANK" not in name}
            environment |= {"MADE_UP": name, "MADE_UP_RANKS": "2", "MADE_UP_FOLDER": counts, "MADE_UP_PROGRAM": PROGRAM}
            environment |= {"MADE_UP_DESCRIPTION": "torch 2.11.0" if name == "ddp_step" else "torch 2.11.0\nmpi 4.1.4"}
            environment |= {"LOCKSTEP_HOST_PROCESSES": "made up", "PATH": programs + os.pathsep + os.environ["PATH"]}
            stack.enter_context(mock.patch.dict(os.environ, environment, clear=True))
            arguments = [f"--program={PROGRAM}", f"--python={PROGRAM}", *arguments]
            arguments += ["--folder", folder] if name in ("cold_read", "checkpoint") else []
            stack.enter_context(mock.patch.object(sys, "argv", [f"{name}_driver.py", *arguments]))
            stack.enter_context(mock.patch.object(driver, "FOLDER", folder))
            if hasattr(module, "hosts"):
                stack.enter_context(mock.patch.object(module.hosts, "TOOL", PROGRAM))
            stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
            self.stdout, self.stderr = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(self.stdout), contextlib.redirect_stderr(self.stderr):
                shown = "" if name == "collectives" else name
                self.status = driver.main(shown, module.parse, module.run)
            self.stdout, self.stderr = self.stdout.getvalue(), self.stderr.getvalue()
            self.records = {path.name: self.read(path, folder) for path in Path(folder, "records").glob("*")}

    @staticmethod
    def read(path, folder):
        records = [json.loads(line) for line in path.read_text().replace(folder, "FOLDER").splitlines()]
        for record in records:
            for name in ("date", "commit", "dirty", "machine", "os"):
                del record[name]
        return records


def result_of(name, *arguments, **environment):
    with mock.patch.dict(os.environ, environment):
        return Outcome(name, [*RUNS[name], *arguments])


def fields_of(records):
    """Of each record: its fields, with the names in those that have some."""
    return [
        [f"{name}: {' '.join(value)}" if isinstance(value, dict) else name for name, value in record.items()]
        for record in records
    ]


class Results(unittest.TestCase):
    """Of the made-up figures, as driver_results.json has them: what users and their scripts read stays as it is."""

    maxDiff = None


def add_result_test(name, expected):
    def test(self):
        outcome = result_of(name)
        self.assertEqual(outcome.status, 0, outcome.stderr)
        self.assertEqual(outcome.stdout.splitlines()[-1], expected["result"])
        self.assertEqual({file: fields_of(records) for file, records in outcome.records.items()}, expected["records"])

    setattr(Results, f"test_{name}", test)


class Faults(unittest.TestCase):
    def expect_error(self, name, expected, *arguments, **environment):
        outcome = result_of(name, *arguments, **environment)
        self.assertEqual((outcome.status, outcome.stderr.strip()), (1, expected))
        self.assertEqual(outcome.records, {})

    def test_a_program_that_fails_is_told_with_what_it_said(self):
        expected = "task_pool: error: variant lockstep_small, small, round 1: exit code 1\n  made up: this is why"
        self.expect_error("task_pool", expected, MADE_UP_FAULT="fails")

    def test_a_program_that_hangs_is_ended_at_the_deadline(self):
        expected = "ensemble: error: variant identity, round 1: still running after 1 s, and it printed nothing"
        self.expect_error("ensemble", expected, "--deadline", "1", MADE_UP_FAULT="hangs")

    def test_a_program_without_figures_is_told(self):
        expected = "scalar_call: error: variant lockstep, round 1: it printed '' where its figures should be"
        self.expect_error("scalar_call", expected, MADE_UP_FAULT="says nothing")

    def test_ranks_without_figures_are_told(self):
        expected = "data_parallel: error: variant processes, batch 4, round 1: it left no figures"
        self.expect_error("data_parallel", expected, MADE_UP_FAULT="says nothing")

    def test_what_cannot_be_measured_here_is_skipped(self):
        for name in ("cold_read", "task_pool"):
            outcome = result_of(name, MADE_UP_FAULT="skips")
            self.assertEqual((outcome.status, outcome.stderr.strip()), (77, "made up: this cannot be measured here"))
            self.assertEqual(outcome.records, {})

    def test_a_wrong_argument_is_told_before_anything_runs(self):
        outcome = result_of("gpt", "--rounds", "0")
        expected = "gpt: argument --rounds: invalid positive number value: '0'"
        self.assertEqual((outcome.status, outcome.stderr.strip(), outcome.stdout), (2, expected, ""))

    def test_help_shows_the_defaults(self):
        printed = io.StringIO()
        with self.assertRaises(SystemExit), contextlib.redirect_stdout(printed):
            importlib.import_module("gpt_driver").parse(["--help"])
        text = " ".join(printed.getvalue().split())
        self.assertIn("--rounds ROUNDS starts of each variant (default 5)", text)
        self.assertIn("--deadline DEADLINE seconds a start may take (default 300)", text)


class Records(unittest.TestCase):
    def test_a_run_without_a_record_leaves_none(self):
        outcome = result_of("profiler_call", "--no-record")
        self.assertEqual((outcome.status, outcome.records), (0, {}))

    def test_the_command_is_what_a_person_typed(self):
        records = result_of("profiler_call").records["profiler_call.jsonl"]
        self.assertEqual([record["command"] for record in records], ["benchmarks/run.sh profiler_call"])

    def test_a_machine_without_git_knows_no_commit(self):
        with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, {"PATH": empty}):
            self.assertEqual(machine.commit(ROOT), {"commit": "none", "dirty": True})

    def test_what_was_not_measured_is_nothing_in_a_record_and_told_on_the_last_line(self):
        figures = {"speedup": 1.23456, "vs_python": None}
        self.assertEqual(driver.rounded(figures), {"speedup": 1.2346, "vs_python": None})
        self.assertEqual(driver.rounded(figures, 1), {"speedup": 1.2, "vs_python": None})
        self.assertEqual(driver.pairs(driver.shown(figures)), "speedup=1.23 vs_python=n/a")


class Turns(unittest.TestCase):
    def setUp(self):
        self.options = argparse.Namespace(rounds=3)

    def test_each_round_begins_with_another_way(self):
        starts = []

        def start(way):
            starts.append(f"{way}{self.options.round}")
            return len(starts)

        raw = sides.in_turns(self.options, {"a": 0, "b": 0}, start)
        self.assertEqual(starts, ["a0", "b0", "b1", "a1", "a2", "b2"])
        self.assertEqual(raw, {"a": [1, 4, 5], "b": [2, 3, 6]})

    def test_an_error_names_the_way_and_the_round(self):
        def start(way):
            if way == "b" and self.options.round == 1:
                raise OSError("it is lost")

        with self.assertRaisesRegex(driver.JobError, "^variant b, batch 4, round 2: it is lost$"):
            sides.in_turns(self.options, ["a", "b"], start, "batch 4")
        with self.assertRaisesRegex(driver.JobError, "^variant b, round 2: it is lost$"):
            sides.in_turns(self.options, ["a", "b"], start)

    def test_a_ratio_is_the_median_of_the_rounds(self):
        raw = {"a": [1.0, 20.0, 30.0], "b": [1.0, 2.0, 60.0]}
        self.assertEqual(sides.ratio(raw, "a", "b"), 1.0)
        self.assertEqual(sides.ratio({"a": [{"ms": 6}], "b": [{"ms": 2}]}, "a", "b", lambda start: start["ms"]), 3.0)
        self.assertIsNone(sides.ratio(raw, "a", "python"))
        self.assertIsNone(sides.ratio(raw, "python", "a"))

    def test_a_table_has_a_line_for_each_way(self):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            raw = {"a": [3.0, 1.0, 1.5], "b": [2.0]}
            sides.print_table(raw, "way", 5, "6.2f", more_heading="  name", more="  {}".format)
        expected = "way   median    min    max  name\na       1.50   1.00   3.00  a\nb       2.00   2.00   2.00  b\n"
        self.assertEqual(printed.getvalue(), expected)

    def test_starts_of_two_parts_are_parted(self):
        self.assertEqual(sides.halves({"a": [(1, "x"), (2, "y")]}), [{"a": [1, 2]}, {"a": ["x", "y"]}])


class Figures(unittest.TestCase):
    def test_the_last_line_is_a_number_or_figures(self):
        self.assertEqual(sides.figures_in("a warning\n12.5"), 12.5)
        self.assertEqual(sides.figures_in('a warning\n{"p50_us": 3}'), {"p50_us": 3})
        with self.assertRaisesRegex(driver.JobError, "^it printed 'no figures' where its figures should be$"):
            sides.figures_in("12.5\nno figures")

    def test_the_lines_of_a_rank_are_counted(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rank0.txt")
            path.write_text("1 2\n3 4\n")
            self.assertEqual(sides.lines_of_rank(path, 2), [[1, 2], [3, 4]])
            with self.assertRaisesRegex(driver.JobError, "^rank0.txt has 2 lines of figures instead of 3$"):
                sides.lines_of_rank(path, 3)

    def test_ranks_get_what_torchrun_would_tell_them(self):
        ranks = sides.rank_environments(3)
        names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS"]
        told = [[rank[name] for name in names] for rank in ranks]
        self.assertEqual(told, [[str(rank), str(rank), "3", "3", "127.0.0.1", "1"] for rank in range(3)])
        (port,) = {int(rank["MASTER_PORT"]) for rank in ranks}
        self.assertTrue(10000 <= port < 30000, port)

    def test_a_port_is_neither_given_twice_nor_one_that_is_in_use(self):
        with socket.socket() as listener:
            first = sides.free_port()
            listener.bind(("127.0.0.1", first))
            listener.listen()
            self.assertNotEqual(sides.free_port(), first)
            with mock.patch.object(sides, "PORTS", itertools.count(first - 10000)):
                self.assertNotEqual(sides.free_port(), first)

    def test_ranks_of_mpirun_are_as_many_as_asked_for(self):
        with mock.patch.object(sides, "Job") as job:
            sides.mpi_processes(["program", "--op", "x"], 3, GLOO_SOCKET_IFNAME="lo")
        (command,), (environment,) = job.call_args.args
        self.assertEqual((command[:3], command[-3:]), (["mpirun", "-n", "3"], ["program", "--op", "x"]))
        told = [environment.get(name) for name in ("OMP_NUM_THREADS", "OMPI_ALLOW_RUN_AS_ROOT", "GLOO_SOCKET_IFNAME")]
        self.assertEqual(told, ["1", "1", "lo"])


for driver_name, of_driver in json.loads(Path(__file__).with_name("driver_results.json").read_text()).items():
    add_result_test(driver_name, of_driver)

if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: BSD-3-Clause
"""Runs the task_pool benchmark: tasks a second of Lockstep's TaskPool and of Python's pools, in turns.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import statistics
import sys

from driver import Parser, append_record, main, print_result, rounded, shown
from sides import figures_in, find_versions, has_python, in_turns, one_process, print_table, program_of

# kind of task: its tasks a start; the ways of Lockstep, and of Python
KINDS = {
    "result": (1500, ["result", "result_in_place"], ["result_array", "result_tensor"]),
    "argument": (1500, ["argument", "argument_in_place"], ["argument_array", "argument_tensor"]),
    "small": (20000, ["small", "small_chunks"], ["small", "small_chunks"]),
    "round_trip": (5000, ["round_trip"], ["round_trip"]),
}


def parse(arguments):
    parser = Parser("task_pool", __doc__, ("a start", 120))
    parser.number("--workers", 2, "processes, one thread each")
    parser.add_argument("--kind", choices=KINDS, action="append", help="what the tasks do (default: all)")
    parser.number("--rounds", 5, "starts of each way")
    parser.add_argument("--no-python", action="store_true", help="leave Python's side out")
    return parser.parse(arguments)


def start(options, way, tasks):
    """Starts a way once; its tasks a second."""
    side, _, variant = way.partition("_")
    program = program_of(options, "task_pool.py" if side == "python" else None)
    command = [*program, "--variant", variant, "--workers", str(options.workers), "--tasks", str(tasks)]
    return figures_in(one_process(command, OMP_NUM_THREADS="1").wait(options.deadline))


def ratio(raw, own):
    """How many times as many tasks as the fastest of Python's ways: the median over the rounds."""
    theirs = [rates for way, rates in raw.items() if way.startswith("python_")]
    if not theirs:
        return None
    return statistics.median(ours / max(others) for ours, *others in zip(raw[own], *theirs))


def run(options, command):
    versions = find_versions(options)
    with_python = has_python(options, versions)
    result = {}
    for kind in options.kind or KINDS:
        tasks, own, python = KINDS[kind]
        own = [f"lockstep_{name}" for name in own]
        python = [f"python_{name}" for name in python if with_python]
        raw = in_turns(options, own + python, lambda way: start(options, way, tasks), kind)
        ratios = {way: ratio(raw, way) for way in own}
        print(f"tasks of kind {kind}: {options.workers} workers, {options.rounds} rounds; tasks a second")
        print_table(raw, "way", 28, "11.0f")
        append_record(
            options,
            "task_pool",
            command,
            versions=versions,
            kind=kind,
            workers=options.workers,
            tasks=tasks,
            unit="tasks a second, raw: way -> round",
            raw=raw,
            ratios=rounded(ratios),
        )
        for way, value in shown(ratios).items():
            result["vs_python" if way == "lockstep_result" else f"{way.removeprefix('lockstep_')}_vs_python"] = value
        if kind == "small":
            result["small_tasks_per_s"] = f"{statistics.median(raw['lockstep_small']):.0f}"
    print_result(result)


if __name__ == "__main__":
    sys.exit(main("task_pool", parse, run))

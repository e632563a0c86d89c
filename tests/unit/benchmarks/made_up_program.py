#!/usr/bin/env -S python3 -ISs
# SPDX-License-Identifier: BSD-3-Clause
"""Stands for all that the benchmarks' drivers start: programs, Python, mpirun, tools/hosts.sh. All figures are made up.

MADE_UP says which benchmark it plays, MADE_UP_RANKS how many ranks where there is no RANK, MADE_UP_FOLDER where it counts
its starts, and MADE_UP_FAULT what goes wrong. Its figures differ from way to way, from start to start and from rank to
rank, and are the same in each run of a test.
"""

import json
import os
import sys
import time


def words_of(arguments):
    """{name: what follows --name}"""
    found, name = {}, ""
    for word in arguments:
        if word.startswith("--"):
            name = word[2:]
            found[name] = ""
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    return found


def ranks():
    return [int(os.environ["RANK"])] if "RANK" in os.environ else range(int(os.environ["MADE_UP_RANKS"]))


def figure(way, rank=0):
    """Of the next start of this way."""
    with open(os.path.join(os.environ["MADE_UP_FOLDER"], f"{way}_{rank}"), "a", encoding="ascii") as file:
        start = file.tell()
        file.write(".")
    return round((20 + sum(map(ord, way)) % 50) * (1 + 0.1 * (3 * start % 5) + 0.04 * rank * (len(way) % 4)), 4)


def write(words, name, text):
    with open(os.path.join(words["output"], name), "w", encoding="ascii") as file:
        file.write(text)


def lines(values):
    return "".join(f"{value}\n" for value in values)


def extras(**figures):
    return lines(f"{name} {value}" for name, value in figures.items())


def task_pool(words, side):
    print(figure(f"{side}_{words['variant']}"))


def cold_read(words, _):
    if "make-files" in words:
        return
    if "engine" in words:
        way = words["engine"] + str("direct" in words)
        # This kernel has io_uring, but not for direct reads.
        names = {"ringFalse": "io_uring", "ringTrue": "pread"}
        print(json.dumps({"engine": names.get(way, words["engine"]), "reads_per_second": figure(way)}))
    else:
        way = f"{words['source']}_{words.get('read-ahead', 0)}_{words.get('workers', 0)}_{'warm' in words}"
        print(json.dumps({"samples_per_second": figure(way), "target_sum": 42}))


def ensemble(words, side):
    way = words.get("variant", side)
    names = ["p50_us", "p99_us", "small_p50_us", "copy_us", "copies_us", "request_ms", "load_ms", "restart_ms", "errors"]
    print("a line before")
    rank = int(os.environ.get("RANK", 0))
    print(json.dumps({**{name: figure(f"{way}_{name}", rank) for name in names}, "lost": 0}))


def optimizer_step(words, side):
    for rank in ranks():
        first = figure(f"{side}_{words['variant']}", rank)
        write(words, f"rank{rank}.json", json.dumps({"steps_ms": [first, first + 1, first + 2]}))


def pipeline(words, side):
    if "predict" in words:
        print(json.dumps({"predicted_ms": 40 + len(words["predict"].split(","))}))
        return
    way = "_".join([side, words.get("schedule", ""), words.get("slots", ""), os.environ["WORLD_SIZE"]])
    for rank in ranks():
        step = figure(way, rank)
        costs = [[step + stage, 1, 2, 3] for stage in range(2)]
        losses = [1.5, 0.5 if way != "lockstep_zero_bubble_1_2" else 0.50001]
        figures = {"step_ms": [step, step + 2, step + 1], "predicted_ms": step * 0.9}
        print(json.dumps({**figures, "losses": losses, "costs": costs}))


def tensor_parallel(words, side):
    for rank in ranks():
        way = f"{side}_{words['task']}_{os.environ['WORLD_SIZE']}"
        step = figure(way, rank)
        reduces = [step / 9] if side == "lockstep" and os.environ["WORLD_SIZE"] != "1" else []
        figures = {"steps_ms": [step, step + 1], "all_reduces_ms": reduces, "loss": float(len(words["task"]))}
        figures |= {"step_kib": round(step)} if side == "lockstep" else {}
        write(words, f"rank{rank}.json", json.dumps(figures))


def data_parallel(words, _):
    for rank in ranks():
        step = figure(words["variant"], rank)
        write(words, f"rank{rank}.txt", lines(step + number for number in range(int(words["steps"]))))
        write(words, f"rank{rank}.extras", extras(second_loss=2.5, peak_mib=step * 10))


def gpt(words, side):
    if "folder" in words:
        return
    for rank in ranks():
        step = figure(f"{side}_{words.get('variant')}", rank)
        numbers = range(5 * int(words["warmup"]))
        write(words, f"rank{rank}.txt", lines(f"{4 - number / 100} {step + number % 7}" for number in numbers))


def checkpoint(words, side):
    for rank in ranks():
        if words["variant"] == "files":
            names = ["save_ms", "save_unverified_ms", "plain_write_ms", "load_ms", "plain_read_ms"]
            figures = {name: [figure(name, rank), figure(name, rank)] for name in names}
            figures["bytes"] = [1 << 20, (rank + 1) << 20]
        else:
            step = figure(f"{side}_{words['variant']}", rank)
            # The first half of the steps from save to save is slower.
            after_save, every = {"copied": 1.2, "deferred": 1.05}.get(words["variant"], 1), int(words["every"])
            steps = [step * (after_save if 2 * (number % every) < every else 1) for number in range(int(words["steps"]))]
            figures = {"steps_ms": steps, "total_ms": 4 * step}
            figures["stalls_ms"] = [] if words["variant"] == "none" else [step / 10, step / 5]
        write(words, f"rank{rank}.json", json.dumps(figures))


def scalar_call(_, side):
    figures = {name: figure(f"{side}_{name}") for name in ("scalar_call_p50_ns", "scalar_call_p99_ns")}
    print(json.dumps({**figures, **({"million_written_s": figure("million") / 100} if side == "lockstep" else {})}))


def profiler_call(*_):
    print(json.dumps({"range_ns": 1.5, "idle_step_ns": 2.5, "clock_ns": 20.0, "calls": 1000}))


def ddp_step(words, side):
    print("backend made_up")
    for rank in ranks():
        step = figure(f"{side}_{words['variant']}_{words.get('hook')}_{words.get('seed')}", rank)
        write(words, f"rank{rank}.txt", lines(step + number for number in range(int(words["steps"]))))
        figures = {"peak_mib": 100 + step, "sent_mib": step / 2, "loss": step / 100, "first_loss": step / 50}
        if words["variant"] == "lockstep":
            figures |= {"exposed_ms": step / 20, "gradient_mib": 45}
        write(words, f"rank{rank}.extras", extras(**figures))


hosts = hooks = ddp_step


def collectives(words, _):
    print("backend lockstep made_up")
    for rank in ranks():
        rows = [
            f"{size} {side} {number} {figure(f'{side}_{size}', rank)} 0"
            for side in ("lockstep", "lockstep_torchrun", "mpi", "gloo", "ordinary", "limit")
            for size in words["sizes"].split()
            for number in range(int(words["rounds"]))
        ]
        write(words, f"rank{rank}.txt", lines([*rows, "0 fingerprint 0 0.125 0"]))


links = collectives


def data_loader(words, side):
    if "make-photographs" in words:
        with open(os.path.join(words["root"], "photograph"), "w", encoding="ascii") as file:
            file.write("made up")
        return
    way = "_".join([side, words["workload"], words.get("decoder", ""), str("batched" in words)])
    names = ["samples_per_second", "first_batch_ms", "first_batch_after_set_up_ms", "epoch_gap_ms", "delivery_us_p50"]
    names += ["delivery_us_p99", "delivery_system_calls_p50", "rank_faults_a_batch", "worker_faults_a_batch"]
    names += ["worker_private_mib", "descriptors_a_batch"]
    settings = []
    for workers in range(3):
        figures = {name: figure(f"{way}_{name}_{workers}") for name in names}
        settings.append({**figures, "copied_batches": 0, "target_sum": 7, "data_sum": 1.25})
    print(json.dumps(settings))


def misbehave():
    """As MADE_UP_FAULT says."""
    fault = os.environ.get("MADE_UP_FAULT")
    if fault == "fails":
        sys.exit("made up: this is why")
    if fault == "hangs":
        time.sleep(600)
    if fault == "says nothing":
        sys.exit()
    if fault == "skips":
        print("made up: this cannot be measured here", file=sys.stderr)
        sys.exit(77)


def main():
    arguments = sys.argv[1:]
    if os.environ["MADE_UP_PROGRAM"] in arguments:  # it plays mpirun or tools/hosts.sh
        arguments = arguments[arguments.index(os.environ["MADE_UP_PROGRAM"]) + 1 :]
    if arguments[:1] == ["--describe"]:
        print(os.environ["MADE_UP_DESCRIPTION"])
    elif arguments[:1] == ["-c"]:
        print("2.11.0")
    else:
        misbehave()
        side = "python" if arguments and arguments[0].endswith(".py") else "lockstep"
        globals()[os.environ["MADE_UP"]](words_of(arguments), side)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Compares the plans of Lockstep's pipeline schedules with those of torch.distributed.pipelining, for many sizes.

    pipeline_parity_driver.py COMMAND ...

Python writes its orders; the command (pipeline_schedule_tests) must make the same, refuse the same sizes, and writes its plans.
PyTorch reads these, adds its own messages, and runs them through its own check and simulation.

GPipe and 1F1B are taken from the loops that run, with a stage that notes what it is told: what 1F1B prints as its order has
other microbatches (PyTorch 2.11).

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch is missing.
"""

import csv
import os
import subprocess
import sys
import tempfile
import types

SKIPPED = 77
RANKS = (1, 2, 3, 4, 5, 8)
MICROBATCHES = (*range(1, 11), 12, 15, 16, 24)
LOWERED = 10  # microbatches, up to which PyTorch adds its messages to our plans

try:
    import torch
    from torch.distributed.pipelining import schedules as S
except Exception as failure:  # a torch without its dependencies fails in many ways, not by ImportError alone
    print(f"skipped: this Python has no torch: {failure}")
    sys.exit(SKIPPED)


class NotingStage:
    """Takes the place of a stage in the loops of PyTorch's schedules."""

    has_backward = True

    def __init__(self, rank, ranks, index, stages):
        self.group_rank, self.group_size, self.stage_index, self.num_stages = rank, ranks, index, stages
        self.is_first, self.is_last = index == 0, index == stages - 1
        self.submod = torch.nn.Identity()
        self.order = []

    def forward_one_chunk(self, microbatch, *_, **__):
        self.order.append(f"{self.stage_index}F{microbatch}")

    def backward_one_chunk(self, microbatch, *_, **__):
        self.order.append(f"{self.stage_index}B{microbatch}")

    def perform_reduce_grad(self, _):
        pass

    def _no_messages(self, *_):
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = _no_messages


def noted(kind, ranks, stages_a_rank, microbatches):
    """The orders in which the loop of a schedule with one stage a rank calls its stage."""
    if stages_a_rank != 1:
        return None
    rows = []
    for rank in range(ranks):
        stage = NotingStage(rank, ranks, rank, ranks)
        schedule = kind(stage, microbatches, loss_fn=lambda output, target: None)
        schedule._initialize_stage = lambda *_: None
        schedule._maybe_compute_loss = schedule._maybe_get_loss = lambda *_: None
        schedule._update_losses = lambda *_: None
        schedule._step_microbatches(target_mbs=[None] * microbatches)
        rows.append(stage.order)
    return rows


def generated(kind, ranks, stages_a_rank, microbatches):
    """The orders of a schedule that is data."""
    if kind is S.ScheduleZBVZeroBubble:
        own = [0, 2 * ranks - 1]
        if stages_a_rank != 2:
            own = [i * ranks for i in range(stages_a_rank)]
    else:
        own = [i * ranks for i in range(stages_a_rank)]
    stages = [NotingStage(0, ranks, index, ranks * stages_a_rank) for index in own]
    schedule = kind(stages, microbatches, loss_fn=lambda output, target: None)
    return [[str(action) for action in schedule.pipeline_order[rank] if action is not None] for rank in range(ranks)]


def breadth_first(kind, ranks, stages_a_rank, microbatches):
    """PyTorch's goes back from the last microbatch to the first; Lockstep always from the first to the last."""
    rows = generated(kind, ranks, stages_a_rank, microbatches)

    def turned(text):
        stage, b, microbatch = text.partition("B")
        return f"{stage}B{microbatches - 1 - int(microbatch)}" if b else text

    return [[turned(text) for text in row] for row in rows]


CASES = (
    ("gpipe", S.ScheduleGPipe, noted, (1,)),
    ("gpipe", S.ScheduleLoopedBFS, breadth_first, (2, 3)),
    ("1f1b", S.Schedule1F1B, noted, (1,)),
    ("interleaved", S.ScheduleInterleaved1F1B, generated, (1, 2, 3)),
    ("zero_bubble", S.ScheduleInterleavedZeroBubble, generated, (1, 2, 3)),
    ("zbv", S.ScheduleZBVZeroBubble, generated, (1, 2, 3)),
)


def with_all_cells(rows, microbatches):
    """What PyTorch writes by `_dump_csv` with messages: the same order with everything that its passes add."""
    orders = {rank: [S._Action.from_str(text) for text in row] for rank, row in enumerate(rows)}
    rank_of = {action.stage_index: rank for rank, order in orders.items() for action in order}
    orders = {rank: S._add_reduce_grad(S._add_unshard_reshard(order), microbatches) for rank, order in orders.items()}
    orders = S._add_send_recv(orders, rank_of.__getitem__, len(rank_of))
    return [[str(action) for action in orders[rank]] for rank in sorted(orders)]


def write_orders(path):
    """A line of name and size, then a line a rank; or the line alone with "refused". For some sizes the same once more with
    "lowered", and PyTorch's messages between the actions."""
    lowering = S._PipelineScheduleRuntime._prepare_schedule_with_comms
    # The messages of its own plans are not needed, and take most of the time.
    S._PipelineScheduleRuntime._prepare_schedule_with_comms = S.PipelineScheduleMulti._validate_and_set_stage_mapping
    counts = {}
    with open(path, "w") as file:
        for name, kind, orders, stage_counts in CASES:
            for ranks in RANKS:
                for stages_a_rank in stage_counts:
                    for microbatches in MICROBATCHES:
                        try:
                            rows = orders(kind, ranks, stages_a_rank, microbatches)
                        except ValueError:
                            rows = None
                        file.write(f"{name} {ranks} {stages_a_rank} {microbatches}{'' if rows else ' refused'}\n")
                        file.writelines(",".join(row) + "\n" for row in rows or ())
                        if rows and ranks in (2, 3) and microbatches <= 6:
                            file.write(f"{name} {ranks} {stages_a_rank} {microbatches} lowered\n")
                            file.writelines(",".join(row) + "\n" for row in with_all_cells(rows, microbatches))
                        counts[name, bool(rows)] = counts.get((name, bool(rows)), 0) + 1
    S._PipelineScheduleRuntime._prepare_schedule_with_comms = lowering
    return counts


def check_plans(path):
    """PyTorch's own check and simulation of the plans that the command wrote."""
    count = 0
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    at = 0
    while at < len(lines):
        ranks, stages_a_rank, microbatches = map(int, lines[at])
        rows = {rank: [S._Action.from_str(text) for text in lines[at + 1 + rank]] for rank in range(ranks)}
        at += 1 + ranks
        stages = ranks * stages_a_rank
        rank_of = S._validate_schedule(rows, ranks, stages, microbatches)
        if microbatches <= LOWERED and ranks <= 5:
            with_messages = S._add_send_recv({rank: list(row) for rank, row in rows.items()}, rank_of.__getitem__, stages)
            S._simulate_comms_compute(with_messages, rank_of.__getitem__, stages)
            count += 1
    return count


def main():
    with tempfile.TemporaryDirectory() as folder:
        orders, plans = os.path.join(folder, "orders"), os.path.join(folder, "plans.csv")
        counts = write_orders(orders)
        print(", ".join(f"{name} {'made' if made else 'refused'} {count}" for (name, made), count in counts.items()))
        environment = dict(os.environ, LOCKSTEP_PIPELINE_ORDERS=orders, LOCKSTEP_PIPELINE_PLANS=plans)
        status = subprocess.run(sys.argv[1:], env=environment).returncode
        if status:
            return status
        print(f"PyTorch runs {check_plans(plans)} of these plans, with its own messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())

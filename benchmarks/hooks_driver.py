# SPDX-License-Identifier: BSD-3-Clause
"""Trains over several hosts with each communication hook in turns, prints time and loss of each, and appends a record.

benchmarks/run.sh builds and calls it; benchmarks/README.md says what is measured and why this way.
"""

import statistics
import sys

import ddp_step_driver as ddp_step
import hosts
from driver import Parser, append_record, main, print_result, shown, versions_of
from sides import chosen, spread

WITHOUT_HOOK = "none"
ALONE = "alone"
HOOKS = ["fp16", "bf16", "int8", "power_sgd_1", "power_sgd_4", "batched_power_sgd_4"]
VARIANTS = [ALONE, WITHOUT_HOOK, *HOOKS]
# Higher rates make trainings that differ in one bit end with quite different losses.
LEARNING_RATE = "0.01"


def parse(arguments):
    parser = Parser("hooks", __doc__, ("a start", 1200))
    hosts.add_arguments(parser)
    parser.add_argument("--arch", choices=["resnet18", "resnet34", "resnet50"], default="resnet18", help="model")
    parser.number("--batch", 32, "images a rank and step")
    parser.number("--rounds", 5, "trainings with each hook, a seed each")
    parser.number("--steps", 180, "timed steps of a training")
    parser.number("--warmup", 20, "steps before; PowerSGD begins after them")
    parser.add_argument("--hooks", nargs="+", choices=HOOKS, default=HOOKS, help="default: all")
    parser.add_argument("--fmnist", default="/usr/share/datasets/fashion-mnist", help="folder of Fashion-MNIST")
    options = parser.parse(arguments)
    hosts.complete(options)
    return ddp_step.with_jobs(options, make_job)


def make_job(options, variant, batch, steps, output):
    arguments = ["--variant", "lockstep_alone" if variant == ALONE else "lockstep", "--arch", options.arch]
    arguments += ["--batch", str(batch), "--warmup", str(options.warmup), "--steps", str(steps), "--output", output]
    arguments += ["--interface", hosts.INTERFACE, "--images", options.fmnist, "--seed", str(options.round)]
    arguments += ["--learning-rate", LEARNING_RATE]
    if variant in HOOKS:
        arguments += ["--hook", variant]
    return hosts.job("ranks", [options.program, *arguments])


def losses_of(extras, name):
    """Variant -> round -> the mean of the ranks."""
    return {
        variant: [round(statistics.mean(rank[name] for rank in ranks), 4) for ranks in rounds]
        for variant, rounds in extras.items()
    }


def added_losses(losses):
    """Variant -> round -> how much more than the training without a hook that began with the same seed."""
    return {
        variant: [round(own - without, 4) for own, without in zip(figures, losses[WITHOUT_HOOK])]
        for variant, figures in losses.items()
        if variant != ALONE
    }


def print_table(options, rounds, medians, extras, sent, losses, added):
    print(f"{options.arch}, {hosts.description(options)}, batch {options.batch} a rank,", end=" ")
    print(f"{options.rounds} trainings of {options.warmup} + {options.steps} steps; milliseconds a step of the slowest rank")
    print(f"{'hook':<20} {'median':>8} {'min':>8} {'max':>8} {'speedup':>8} {'exposed ms':>11} {'MiB sent':>9}", end="")
    print(f" {'loss':>7} {'added':>8} {'min':>8} {'max':>8}")
    for variant, figures in rounds.items():
        exposed = ddp_step.worst_extra(extras, variant, "exposed_ms")
        print(f"{variant:<20} {spread(figures, '8.1f')}", end="")
        print(f" {medians[WITHOUT_HOOK] / medians[variant]:>8.2f} {'' if exposed is None else format(exposed, '.1f'):>11}", end="")
        print(f" {sent[variant]:>9.2f}", end="")
        if variant in added:
            print(f" {statistics.median(losses[variant]):>7.4f} {statistics.median(added[variant]):>+8.4f}", end="")
            print(f" {min(added[variant]):>+8.4f} {max(added[variant]):>+8.4f}", end="")
        print()


def run(options, command):
    hosts.enter(options)
    versions = versions_of(options.program)
    variants = [variant for variant in VARIANTS if variant not in HOOKS or variant in options.hooks]
    raw, extras = ddp_step.run_rounds(options, variants, options.batch, options.steps)
    rounds, medians = ddp_step.rounds_and_medians(raw)
    sent = hosts.sent_mib(options, extras)
    losses = losses_of(extras, "loss")
    added = added_losses(losses)
    print_table(options, rounds, medians, extras, sent, losses, added)
    first = statistics.median(losses_of(extras, "first_loss")[WITHOUT_HOOK])
    print(f"loss: the last fifth of the steps; without a hook, the first fifth has {first:.4f}")
    speedups = {hook: ddp_step.ratio(medians, WITHOUT_HOOK, hook) for hook in options.hooks}
    append_record(
        options,
        "hooks",
        command,
        versions=versions,
        **hosts.recorded(options),
        **chosen(options, ["arch", "batch", "warmup", "steps"]),
        unit="milliseconds a step; raw: variant -> round -> rank; losses: variant -> round",
        raw=raw,
        extras=extras,
        medians=medians,
        sent_mib_a_step=sent,
        losses=losses,
        added_losses=added,
        speedups=speedups,
        backends=options.backends,
    )
    added_losses_shown = shown({f"{hook}_added_loss": statistics.median(added[hook]) for hook in options.hooks}, "+.4f")
    print_result({**shown(speedups), **added_losses_shown})


if __name__ == "__main__":
    sys.exit(main("hooks", parse, run))

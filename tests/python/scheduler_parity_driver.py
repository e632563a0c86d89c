# SPDX-License-Identifier: BSD-3-Clause
"""Lets PyTorch's learning rate schedulers and those of a C++ program make the same steps, and compares every bit of the rates,
of momentum and of the states.

    scheduler_parity_driver.py [--nested-steps N] COMMAND ...

With --nested-steps, only the random nestings run, N steps each; 10,000 take about an hour.

Python writes what its schedulers do, with all digits; the command (schedule_python_parity_test) must come to the same, also
from Python's states, and writes its own states, with which Python goes on.

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch is missing.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter

SKIPPED = 77
STEPS = 2000  # of each class and set of arguments
NESTINGS, NESTED_STEPS = 1000, 30
STATES = 3  # in each case
AT_ONCE = 200_000  # steps in one file, at most, unless one case has more
# What the C++ side has beside Python's keys.
OURS = ("_class", "param_groups")

try:
    import torch
    from torch.optim import lr_scheduler as S
    from torch.optim.swa_utils import SWALR
except Exception as failure:  # a torch without its dependencies fails in many ways, not by ImportError alone
    print(f"skipped: this Python has no torch: {failure}")
    sys.exit(SKIPPED)
warnings.simplefilter("ignore")  # schedulers that step without their optimizer


def word(value):
    if value is None:
        return "none"
    return value.hex() if isinstance(value, float) else str(value)


class Leaf:
    """One scheduler: its words for the C++ side, and how Python builds it."""

    def __init__(self, name, arguments, build):
        self.words = [name, *map(word, arguments)]
        self.build = build


def plain(kind, *arguments):
    return Leaf(kind.__name__, arguments, lambda optimizer, **last: kind(optimizer, *arguments, **last))


LAMBDAS = {0: lambda p: lambda t: p**t, 1: lambda p: lambda t: 1.0 / (1.0 + p * t)}


def with_lambda(kind, which, parameter):
    return Leaf(kind.__name__, (which, parameter),
                lambda optimizer, **last: kind(optimizer, LAMBDAS[which](parameter), **last))


def multi_step(milestones, gamma):
    return Leaf("MultiStepLR", (gamma, len(milestones), *milestones),
                lambda optimizer, **last: S.MultiStepLR(optimizer, milestones, gamma, **last))


def cyclic(base, top, up, down, mode, gamma, cycle_momentum, custom=False):
    more = dict(scale_fn=lambda x: 1.0 / (1.0 + 0.1 * x), scale_mode=mode) if custom else dict(mode=mode)
    return Leaf("CyclicLR", (base, top, up, down, mode, gamma, int(cycle_momentum), int(custom)),
                lambda optimizer, **last: S.CyclicLR(optimizer, base, top, up, down, gamma=gamma, cycle_momentum=cycle_momentum,
                                                     **more, **last))


def one_cycle(top, total, pct, strategy, cycle_momentum, div, final, three):
    return Leaf("OneCycleLR", (top, total, pct, strategy, int(cycle_momentum), div, final, int(three)),
                lambda optimizer, **last: S.OneCycleLR(optimizer, top, total, pct_start=pct, anneal_strategy=strategy,
                                                       cycle_momentum=cycle_momentum, div_factor=div,
                                                       final_div_factor=final, three_phase=three, **last))


def plateau(mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps):
    return Leaf("ReduceLROnPlateau", (mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps),
                lambda optimizer: S.ReduceLROnPlateau(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown,
                                                      min_lr, eps))


class Nest:
    def __init__(self, children, milestones=None):
        self.children, self.milestones = children, milestones
        kind = "ChainedScheduler" if milestones is None else "SequentialLR"
        self.words = [kind, str(len(children)), *map(str, milestones or []), *(w for c in children for w in c.words)]

    def build(self, optimizer):
        built = [child.build(optimizer) for child in self.children]
        if self.milestones is None:
            return S.ChainedScheduler(built)
        return S.SequentialLR(optimizer, built, list(self.milestones))


def single_cases():
    """Every class with some arguments; those of the second list may begin with a last_epoch too."""
    simple = [
        with_lambda(S.LambdaLR, 0, 0.999), with_lambda(S.LambdaLR, 1, 0.01),
        with_lambda(S.MultiplicativeLR, 1, 1e-6), with_lambda(S.MultiplicativeLR, 0, 0.99999),
        plain(S.StepLR, 30), plain(S.StepLR, 7, 0.97), plain(S.StepLR, 1, 0.999), plain(S.StepLR, -4, 0.98),
        multi_step([30, 80, 80, 1500], 0.1), multi_step([5], 0.3), multi_step([], 0.5),
        plain(S.ConstantLR), plain(S.ConstantLR, 0.1, 4), plain(S.ConstantLR, 1.0, 0), plain(S.ConstantLR, 0.0, 5000),
        plain(S.LinearLR), plain(S.LinearLR, 0.1, 1.0, 1000), plain(S.LinearLR, 1.0, 0.0, 700), plain(S.LinearLR, 0.5, 0.5, 3),
        plain(S.ExponentialLR, 0.999), plain(S.ExponentialLR, 1.0001), plain(S.ExponentialLR, -0.99),
        plain(S.PolynomialLR), plain(S.PolynomialLR, 1000, 0.9), plain(S.PolynomialLR, 1500, 2.0), plain(S.PolynomialLR, 0, 1.0),
        plain(S.CosineAnnealingLR, 100), plain(S.CosineAnnealingLR, 1), plain(S.CosineAnnealingLR, 1000, 0.001),
        plain(S.CosineAnnealingLR, 7, 0.05), plain(S.CosineAnnealingLR, 1999),
        plain(S.CosineAnnealingWarmRestarts, 10), plain(S.CosineAnnealingWarmRestarts, 3, 2, 0.01),
        plain(S.CosineAnnealingWarmRestarts, 1, 3),
        plain(SWALR, 0.05), plain(SWALR, 0.001, 100, "linear"), plain(SWALR, 0.5, 0, "cos"), plain(SWALR, 0.2, 0, "linear"),
        plain(SWALR, 0.2, 1500, "cos"),
    ]
    others = [
        cyclic(0.01, 0.1, 20, None, "triangular", 1.0, True), cyclic(0.01, 0.3, 7, 13, "triangular2", 1.0, True),
        cyclic(0.01, 0.1, 50, 1, "exp_range", 0.999, True), cyclic(0.001, 0.1, 2000, None, "triangular", 1.0, False),
        cyclic(0.01, 0.1, 20, 30, "cycle", 1.0, True, True), cyclic(0.01, 0.1, 20, 0, "iterations", 1.0, False, True),
        one_cycle(0.1, STEPS, 0.3, "cos", True, 25.0, 1e4, False), one_cycle(0.1, STEPS, 0.3, "linear", True, 10.0, 100.0, True),
        one_cycle(1.0, 777, 0.25, "cos", False, 25.0, 1e4, True), one_cycle(0.1, 100, 1.0, "linear", True, 25.0, 1e4, False),
        one_cycle(0.1, 10, 0.1, "cos", True, 25.0, 1e4, False), one_cycle(0.1, STEPS, 0.0, "cos", True, 2.0, 1e4, False),
    ]
    return simple, others


PLATEAUS = [
    plateau("min", 0.1, 10, 1e-4, "rel", 0, 0.0, 1e-8), plateau("max", 0.5, 3, 1e-2, "rel", 2, 1e-4, 1e-8),
    plateau("min", 0.9, 0, 1e-3, "abs", 5, 0.0, 1e-3), plateau("max", 0.7, 2, 0.1, "abs", 1, 0.01, 0.0),
]


def random_leaf(rng, length):
    small = rng.randint(1, 9)
    makers = [
        lambda: with_lambda(S.LambdaLR, rng.randint(0, 1), rng.uniform(0.5, 1.0)),
        lambda: with_lambda(S.MultiplicativeLR, rng.randint(0, 1), rng.uniform(0.9, 1.0)),
        lambda: plain(S.StepLR, small, rng.uniform(0.1, 1.1)),
        lambda: multi_step([rng.randint(1, length) for _ in range(rng.randint(0, 4))], rng.uniform(0.1, 1.0)),
        lambda: plain(S.ConstantLR, rng.choice([0.0, 0.1, 1.0, rng.random()]), rng.randint(0, 12)),
        lambda: plain(S.LinearLR, rng.uniform(0.01, 1.0), rng.random(), rng.randint(0, 12)),
        lambda: plain(S.ExponentialLR, rng.uniform(0.8, 1.1)),
        lambda: plain(S.PolynomialLR, rng.randint(0, 12), rng.choice([1.0, 2.0, 0.5, rng.random()])),
        lambda: plain(S.CosineAnnealingLR, small, rng.choice([0.0, 0.01, 0.2])),
        lambda: plain(S.CosineAnnealingWarmRestarts, small, rng.randint(1, 3), rng.choice([0.0, 0.01])),
        lambda: plain(SWALR, rng.uniform(0.01, 0.5), rng.randint(0, 9), rng.choice(["cos", "linear"])),
        lambda: cyclic(rng.uniform(0.01, 0.1), rng.uniform(0.1, 0.5), small, rng.choice([None, rng.randint(0, 5)]),
                       rng.choice(["triangular", "triangular2", "exp_range"]), rng.uniform(0.8, 1.0), rng.random() < 0.7),
        lambda: one_cycle(rng.uniform(0.05, 0.5), rng.randint(5, 2 * length), rng.choice([0.3, 0.5, 0.1]),
                          rng.choice(["cos", "linear"]), rng.random() < 0.7, 25.0, 1e4, rng.random() < 0.5),
    ]
    return rng.choice(makers)()


def random_nest(rng, depth, length):
    def child(may_nest):
        if may_nest and depth > 1 and rng.random() < 0.4:
            return random_nest(rng, depth - 1, length)
        return random_leaf(rng, length)

    if rng.random() < 0.4:
        return Nest([child(True) for _ in range(rng.randint(1, 3))])
    count = rng.randint(1, 4)
    # In Python, a nested one that is not the first is an error at its milestone, and here when it is built.
    return Nest([child(i == 0) for i in range(count)], sorted(rng.randint(0, length) for _ in range(count - 1)))


def make_optimizer(kind, rates):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=0.5)
    return getattr(torch.optim, {"adam": "Adam", "adamw": "AdamW"}[kind])(groups, lr=1.0)


def observed(optimizer):
    """What the sides compare: the rate and the momentum of each group."""
    values = []
    for group in optimizer.param_groups:
        values += [float(group["lr"]), float(group["momentum"] if "momentum" in group else group["betas"][0])]
    return values


def portable(value):
    """A state as JSON has it."""
    if isinstance(value, dict):
        return {str(key): portable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def python_state(state):
    """The way back, for load_state_dict."""
    state = {key: value for key, value in state.items() if key not in OURS}
    if "_schedulers" in state:
        state["_schedulers"] = [python_state(one) for one in state["_schedulers"]]
    if isinstance(state.get("milestones"), dict):
        state["milestones"] = Counter({int(key): count for key, count in state["milestones"].items()})
    for key in ("best", "mode_worse"):
        if isinstance(state.get(key), str):
            state[key] = float(state[key])
    return state


class Case:
    def __init__(self, name, tree, rng, steps, last_epoch=-1, calls=None):
        self.name, self.tree, self.last_epoch = name, tree, last_epoch
        self.kind = rng.choice(["sgd", "adam", "adamw"])
        self.rates = [rng.uniform(0.01, 0.5) for _ in range(rng.randint(1, 3))]
        # What step() is given: nothing, or a metric, or an epoch.
        self.calls = calls or [()] * steps
        self.state_steps = set(rng.sample(range(len(self.calls)), STATES))
        self.states, self.after = [], []  # portable states; what came after each

    def build(self):
        optimizer = make_optimizer(self.kind, self.rates)
        if self.last_epoch == -1:
            return optimizer, self.tree.build(optimizer)
        for group in optimizer.param_groups:
            group["initial_lr"] = 2 * group["lr"]
        return optimizer, self.tree.build(optimizer, last_epoch=self.last_epoch)

    def write(self, file):
        rates = " ".join(map(word, self.rates))
        print(f"case {self.name} {self.kind} {self.last_epoch} {len(self.rates)} {rates} {' '.join(self.tree.words)}", file=file)
        try:
            optimizer, scheduler = self.build()
        except (ValueError, ArithmeticError):
            print("refused", file=file)
            return
        self.line(file, "begin", (), optimizer)
        for step, call in enumerate(self.calls):
            try:
                scheduler.step(*call)
            except (ValueError, ArithmeticError):
                print("error", *map(word, call), file=file)
                break
            self.line(file, "step", call, optimizer)
            if step in self.state_steps:
                self.states.append(portable(scheduler.state_dict()))
                self.after.append((observed(optimizer), step + 1))
                print("state", json.dumps(self.states[-1]), file=file)
        print("end", file=file)

    def line(self, file, what, call, optimizer):
        print(what, *map(word, call), *map(word, observed(optimizer)), file=file)

    def differences(self, found):
        """`found`: the states of the C++ side."""
        if len(found) != len(self.states):
            yield f"{self.name}: {len(found)} states instead of {len(self.states)}"
            return
        for ours, theirs, (observation, step) in zip(found, self.states, self.after):
            stripped = {key: value for key, value in ours.items() if key not in OURS}
            if stripped != theirs:
                yield f"{self.name}: states differ:\n  C++    {stripped}\n  Python {theirs}"
        if found:
            yield from self.goes_on(found[-1], *self.after[-1])

    def goes_on(self, state, observation, step):
        """Python loads the last state of C++, and goes on as before."""
        straight = self.build()
        for call in self.calls[:step]:
            straight[1].step(*call)
        optimizer, scheduler = self.build()
        scheduler.load_state_dict(python_state(state))
        for group, other in zip(optimizer.param_groups, straight[0].param_groups):
            group.update({key: value for key, value in other.items() if key != "params"})
        if observed(optimizer) != observation:
            yield f"{self.name}: Python's own steps differ from those before"
        for call in self.calls[step:step + 20]:
            both = []
            for each in (straight, (optimizer, scheduler)):
                try:
                    each[1].step(*call)
                except (ValueError, ArithmeticError) as error:
                    both.append(str(error))
            if observed(optimizer) != observed(straight[0]) or len(set(both)) > 1 or len(both) == 1:
                yield f"{self.name}: Python differs after it has loaded the state of C++"
                return


def all_cases():
    rng = random.Random(20)
    simple, others = single_cases()
    for number, leaf in enumerate(simple + others):
        yield Case(f"{leaf.words[0]}.{number}", leaf, rng, STEPS)
    for number, leaf in enumerate(simple):
        yield Case(f"{leaf.words[0]}.from.{number}", leaf, rng, 100, last_epoch=rng.randint(0, 30))
    for number, leaf in enumerate(PLATEAUS):
        metric, calls = 1.0, []
        for _ in range(STEPS):
            metric += rng.uniform(-0.11, 0.1) * (1 if "min" in leaf.words else -1)
            calls.append((math.nan if rng.random() < 0.01 else metric,))
        yield Case(f"plateau.{number}", leaf, rng, STEPS, calls=calls)
    for number in range(4):
        leaf = plain(S.CosineAnnealingWarmRestarts, rng.randint(1, 9), rng.randint(1, 3), 0.001)
        calls = [rng.choice([(), (rng.uniform(0, 300),), (rng.randint(0, 300),)]) for _ in range(STEPS)]
        yield Case(f"epochs.{number}", leaf, rng, STEPS, calls=calls)
    yield from nestings(rng, NESTED_STEPS)


def nestings(rng, steps):
    for number in range(NESTINGS):
        yield Case(f"nest.{number}", random_nest(rng, 3, steps), rng, steps)


def compare(cases, command):
    """The differences, or None where the command has failed and said why."""
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "cases"), "w") as file:
            print(len(cases), file=file)
            for case in cases:
                case.write(file)
        if subprocess.run(command, env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode:
            return None
        states = {}
        with open(os.path.join(folder, "states")) as file:
            for line in file:
                name, state = line.split(" ", 1)
                states.setdefault(name, []).append(json.loads(state))
    return [difference for case in cases for difference in case.differences(states.get(case.name, []))]


def in_parts(cases):
    part, steps = [], 0
    for case in cases:
        if part and steps + len(case.calls) > AT_ONCE:
            yield part
            part, steps = [], 0
        part.append(case)
        steps += len(case.calls)
    yield part


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nested-steps", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    kinds, found, stateless = Counter(), [], 0
    cases = nestings(random.Random(20), options.nested_steps) if options.nested_steps else all_cases()
    for part in in_parts(cases):
        differences = compare(part, options.command)
        if differences is None:
            return 1
        found += differences
        kinds.update(case.name.split(".")[0] for case in part)
        stateless += sum(not case.after for case in part)
        if options.nested_steps:
            print(f"{sum(kinds.values())} cases, {len(found)} differences", flush=True)
    print("\n".join(found[:20]) or f"all in order: {sum(kinds.values())} cases: {dict(kinds)}")
    print(f"{stateless} of the cases have no state")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

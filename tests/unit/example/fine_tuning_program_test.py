#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the program of examples/03_fine_tuning on weights that Python writes, and reads what it saves.

    fine_tuning_program_test.py --wheels FOLDER --program FINE_TUNING --mpirun tests/support/mpirun.sh [--without-mpi]

WHEELS: the folder with the package safetensors. Exit status 77 (skipped) where torch or safetensors is missing.
"""

import os
import re
import sys

import example_runs

SKIPPED = 77
KNOWN_CLASSES, CLASSES = 10, 4
EPOCH = re.compile(r"epoch (\d+): accuracy ([01]\.\d{4})")


class Run(example_runs.Run):
    name = "fine_tuning"

    def accuracies(self):
        self.check(self.code == 0 and self.stderr == "", "it must succeed without a word on stderr")
        return [float(match.group(2)) for match in map(EPOCH.fullmatch, self.stdout.splitlines()) if match]


def make_net(torch, classes):
    """As the comment of the program has it."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
                                          nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
            self.head = nn.Linear(16, classes)

        def forward(self, x):
            return self.head(self.features(x).mean((2, 3)))

    return Net()


def write_known(torch, safetensors, path):
    """A network whose running statistics are not those of a new one."""
    torch.manual_seed(3)
    net = make_net(torch, KNOWN_CLASSES)
    for _ in range(5):
        net(2 + torch.randn(8, 1, 12, 12))
    safetensors.save_model(net, path)
    return net


def features_of(net):
    return {name: value for name, value in net.state_dict().items() if name.startswith("features.")}


def stripes(torch, count):
    """The pictures of the program, drawn anew."""
    labels = torch.arange(count) % CLASSES
    along = torch.arange(12.0)
    angle = 0.785 * labels.double().view(-1, 1, 1)
    waves = along.view(1, 1, -1) * torch.cos(angle) + along.view(1, -1, 1) * torch.sin(angle)
    pictures = torch.sin(1.5 * waves + 6.28 * torch.rand(count, 1, 1)) + 0.3 * torch.randn(count, 12, 12)
    return pictures.float().unsqueeze(1), labels


def tune(context, ranks, scratch, known, *arguments):
    """The accuracies of the run, and the network that it saved, as Python reads it."""
    torch, safetensors = context.torch, context.safetensors
    saved = os.path.join(scratch, "tuned.safetensors")
    run = Run(context, ranks, ["--weights", known, "--save", saved, *arguments])
    accuracies = run.accuracies()
    run.check(run.stdout.splitlines()[-1] == f"saved: {saved}", "rank 0 alone says where the weights are")
    net = make_net(torch, CLASSES)
    safetensors.load_model(net, saved)  # strict: names and shapes are those of Python's module
    os.remove(saved)
    return accuracies, net


def test_tuning(context, scratch, ranks):
    torch = context.torch
    known_file = os.path.join(scratch, "known.safetensors")
    known = features_of(write_known(torch, context.safetensors, known_file))

    def differences(net):
        return [name for name, value in features_of(net).items() if not torch.equal(value, known[name])]

    # Nothing is trained: what arrives is the backbone, bit for bit.
    accuracies, untrained = tune(context, ranks, scratch, known_file, "--epochs", "0")
    assert not accuracies and not differences(untrained), differences(untrained)

    _, frozen = tune(context, ranks, scratch, known_file, "--epochs", "2", "--freeze")
    assert not differences(frozen), differences(frozen)
    assert not torch.equal(frozen.head.weight, untrained.head.weight), "the head has not learned"

    accuracies, tuned = tune(context, ranks, scratch, known_file, "--epochs", "6")
    assert sorted(differences(tuned)) == sorted(known), "all of the backbone changes, running statistics too"
    assert len(accuracies) == 6 and accuracies[-1] > 0.9, accuracies
    # Python classifies with what was learned here.
    tuned.eval()
    torch.manual_seed(11)
    pictures, labels = stripes(torch, 400)
    right = (tuned(pictures).argmax(1) == labels).float().mean().item()
    assert right > 0.9, right


def test_bad_input(context, scratch):
    torch, safetensors = context.torch, context.safetensors
    Run(context, None, []).check_error(2, "--weights")
    missing = os.path.join(scratch, "missing.safetensors")
    Run(context, None, ["--weights", missing]).check_error(1, missing, "No such file")
    known = make_net(torch, KNOWN_CLASSES).state_dict()
    path = os.path.join(scratch, "other.safetensors")
    safetensors.save_file({k: v for k, v in known.items() if k != "features.3.weight"}, path)
    Run(context, None, ["--weights", path]).check_error(1, path, "features.3.weight")
    safetensors.save_file(dict(known, **{"features.3.weight": torch.zeros(16, 8, 5, 5)}), path)
    Run(context, None, ["--weights", path]).check_error(1, path, "features.3.weight", "[16, 8, 5, 5]", "[16, 8, 3, 3]")


def main():
    context = example_runs.parser_of(__doc__, "--wheels", "--mpirun").parse_args()
    sys.path.insert(0, context.wheels)
    try:
        import safetensors.torch
        import torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch or no safetensors: {error}")
        return SKIPPED
    context.torch, context.safetensors = torch, safetensors.torch
    torch.set_num_threads(1)
    tuned = [(test_tuning, (ranks,)) for ranks in example_runs.worlds(context)]
    return example_runs.run_tests(context, [test_bad_input, *tuned])


if __name__ == "__main__":
    sys.exit(main())

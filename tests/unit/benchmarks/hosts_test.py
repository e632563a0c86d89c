#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The drivers over several hosts: what they tell tools/hosts.sh about the links, and what they compute from the figures."""

import argparse
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))

import hooks_driver  # noqa: E402
import hosts  # noqa: E402


def options(**given):
    return argparse.Namespace(**{"hosts": "2x1", "rate": "10gbit", "slow_link": 1, **given})


class Links(unittest.TestCase):
    def test_all_links_have_the_rate(self):
        self.assertEqual(hosts.rates(options()), ["--rate", "10gbit"])
        self.assertEqual(hosts.bytes_a_second(options(rate="1gbit")), 125e6)

    def test_the_last_host_has_the_slow_link(self):
        for layout, last in (("2x1", 2), ("4x1", 4), ("2,1", 2)):
            told = hosts.rates(options(hosts=layout, slow_link=10))
            self.assertEqual(told, ["--rate", "10gbit", "--rate", f"{last}:1000000kbit"])

    def test_the_share_of_the_link_is_that_of_the_slow_one(self):
        extras = {"lockstep": [[{"sent_mib": 50.0}, {"sent_mib": 20.0}]]}
        alike, slow = options(rate="1gbit"), options(rate="10gbit", slow_link=10)
        self.assertEqual(hosts.sent_mib(alike, extras), {"lockstep": 50.0})
        self.assertEqual(hosts.sent_mib(slow, extras), {"lockstep": 20.0})
        self.assertEqual(hosts.of_link(slow, {"lockstep": 125e6 / 2**20}, {"lockstep": 2000.0}), {"lockstep": 0.5})
        self.assertEqual(hosts.of_link(options(rate="none"), {"lockstep": 1.0}, {"lockstep": 1.0}), {"lockstep": None})


class Losses(unittest.TestCase):
    def test_a_loss_is_compared_with_the_training_of_the_same_round(self):
        extras = {
            "none": [[{"loss": 1.0}, {"loss": 2.0}], [{"loss": 3.0}, {"loss": 3.0}]],
            "fp16": [[{"loss": 2.0}, {"loss": 2.0}], [{"loss": 3.0}, {"loss": 2.5}]],
            "alone": [[{"loss": 9.0}, {"loss": 9.0}], [{"loss": 9.0}, {"loss": 9.0}]],
        }
        losses = hooks_driver.losses_of(extras, "loss")
        self.assertEqual(losses["fp16"], [2.0, 2.75])
        self.assertEqual(hooks_driver.added_losses(losses), {"none": [0.0, 0.0], "fp16": [0.5, -0.25]})


if __name__ == "__main__":
    unittest.main()

// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/pipeline/schedule.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "unit/pipeline/schedule_sizes.h"

namespace lockstep::pipeline {
namespace {

using testing::expect_refusal;

Simulation usual(const std::string& name, std::int64_t p, std::int64_t v, std::int64_t m,
                 const SimulationCosts& costs = {}) {
  return schedule_named(name).plan(p, v, m).simulate(costs);
}

double percent(double share) {
  return std::round(1000 * share) / 10;
}

/// A row of a table that was made by PyTorch 2.11's orders in an event simulator of another
/// program: bubbles in per cent, and the most inputs of stages that a rank holds.
struct KnownRow {
  std::int64_t p, m;
  double gpipe, one_f_one_b, interleaved, zero_bubble, zero_bubble_of_two, zbv;
  std::int64_t held_by_gpipe, held_by_one_f_one_b, held_by_interleaved, held_by_the_others;
};

TEST(PipelineSimulation, HasKnownBubblesAndPeaks) {
  const std::vector<KnownRow> rows = {{2, 4, 20.0, 20.0, 11.1, 7.7, 4.0, 4.0, 4, 2, 5, 2},
                                      {2, 8, 11.1, 11.1, 5.9, 4.0, 2.0, 2.0, 8, 2, 5, 2},
                                      {4, 8, 27.3, 27.3, 15.8, 11.1, 5.9, 5.9, 8, 4, 11, 4},
                                      {4, 16, 15.8, 15.8, 8.6, 5.9, 3.0, 3.0, 16, 4, 11, 4},
                                      {8, 16, 30.4, 30.4, 17.9, 12.7, 6.8, 6.8, 16, 8, 23, 8},
                                      {4, 4, 42.9, 42.9, 27.3, 20.0, 11.1, 20.0, 4, 4, 8, 4}};
  const auto held = [](const Simulation& simulation) {
    return *std::max_element(simulation.peak_held.begin(), simulation.peak_held.end());
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(std::to_string(row.p) + ", " + std::to_string(row.m));
    const auto check = [&](const std::string& name, std::int64_t v, double bubble,
                           std::int64_t most_held) {
      const Simulation found = usual(name, row.p, v, row.m);
      EXPECT_EQ(percent(found.bubble), bubble) << name << ' ' << v;
      EXPECT_EQ(held(found), most_held) << name << ' ' << v;
      EXPECT_EQ(found.stages_per_rank, v);
    };
    check("gpipe", 1, row.gpipe, row.held_by_gpipe);
    check("1f1b", 1, row.one_f_one_b, row.held_by_one_f_one_b);
    check("interleaved", 2, row.interleaved, row.held_by_interleaved);
    check("zero_bubble", 1, row.zero_bubble, row.held_by_the_others);
    check("zero_bubble", 2, row.zero_bubble_of_two, 2 * row.held_by_the_others);
    check("zbv", 2, row.zbv, 2 * row.held_by_the_others);
  }
}

TEST(PipelineSimulation, HasKnownBubblesWhereTheTwoGradientsTakeDifferentTimes) {
  const SimulationCosts costs{.forward = 1, .input = 1.2, .weight = 0.8};
  EXPECT_EQ(percent(usual("1f1b", 4, 1, 8, costs).bubble), 27.3);
  EXPECT_EQ(percent(usual("interleaved", 4, 2, 8, costs).bubble), 15.8);
  EXPECT_EQ(percent(usual("zero_bubble", 4, 1, 8, costs).bubble), 14.9);
  EXPECT_EQ(percent(usual("zero_bubble", 4, 2, 8, costs).bubble), 8.0);
  EXPECT_EQ(percent(usual("zbv", 4, 2, 8, costs).bubble), 7.0);
}

TEST(PipelineSimulation, HasTheIdleTimeOfClosedForms) {
  const SimulationCosts costs{.forward = 2, .input = 3, .weight = 1};
  for (std::int64_t p = 1; p <= 5; ++p) {
    for (std::int64_t rounds = 2; rounds <= 4; ++rounds) {
      const std::int64_t m = rounds * p;
      const auto worst = [](const Simulation& simulation) {
        return *std::max_element(simulation.idle.begin(), simulation.idle.end());
      };
      const auto hops = static_cast<double>(p - 1);
      EXPECT_EQ(worst(usual("gpipe", p, 1, m, costs)), hops * 6);
      EXPECT_EQ(worst(usual("1f1b", p, 1, m, costs)), hops * 6);
      // Stages take the same time here, so the rank's whole work is twice as much.
      EXPECT_EQ(worst(usual("interleaved", p, 2, m, costs)), hops * 6);
      EXPECT_EQ(worst(usual("zero_bubble", p, 1, m, costs)), hops * (2 + 3 - 1));
      EXPECT_EQ(worst(usual("zero_bubble", p, 2, m, costs)), hops * (2 + 3 - 1));
    }
  }
}

/// The longest way through all actions to the end of each, found action by action from behind.
class LongestWay {
 public:
  LongestWay(const Plan& plan, const std::map<std::string, double>& times, double transfer)
      : plan_(plan), times_(times), transfer_(transfer) {}

  double to(std::int64_t rank, std::size_t place) {
    const auto found = known_.find({rank, place});
    if (found != known_.end()) return found->second;
    const Action& action = plan_.actions(rank)[place];
    double start = place > 0 ? to(rank, place - 1) : 0;
    const Need need = need_of(action, plan_.stages());
    if (need.exists) {
      const std::int64_t there = plan_.rank_of(need.stage);
      const auto& actions = plan_.actions(there);
      std::size_t i = 0;
      while (!makes(actions[i], need, action.microbatch)) ++i;
      start = std::max(start, to(there, i) + (there == rank ? 0 : transfer_));
    }
    return known_[{rank, place}] = start + times_.at(to_string(action));
  }
  double all() {
    double longest = 0;
    for (std::int64_t rank = 0; rank < plan_.ranks(); ++rank) {
      longest = std::max(longest, to(rank, plan_.actions(rank).size() - 1));
    }
    return longest;
  }

 private:
  const Plan& plan_;
  const std::map<std::string, double>& times_;
  double transfer_;
  std::map<std::pair<std::int64_t, std::size_t>, double> known_;
};

/// No rank does two things at once, and each action begins as soon as it can.
void check_timeline(const Plan& plan, const Simulation& simulation, double transfer) {
  std::map<std::string, double> ends;
  for (const auto& row : simulation.timeline) {
    for (const auto& timed : row) ends[to_string(timed.action)] = timed.end;
  }
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
    double free = 0;
    for (const auto& [action, start, end] : simulation.timeline[static_cast<std::size_t>(rank)]) {
      double ready = 0;
      const Need need = need_of(action, plan.stages());
      if (need.exists) {
        const auto kind = need.of_forward ? ActionKind::Forward : ActionKind::Backward;
        auto found = ends.find(to_string({kind, need.stage, action.microbatch}));
        if (found == ends.end()) {
          found = ends.find(to_string({ActionKind::BackwardInput, need.stage, action.microbatch}));
        }
        ready = found->second + (plan.rank_of(need.stage) == rank ? 0 : transfer);
      }
      ASSERT_EQ(start, std::max(free, ready)) << action;
      free = end;
    }
  }
}

TEST(PipelineSimulation, NeverStallsAndTakesAsLongAsTheLongestWay) {
  const auto schedules = small_schedules(4, 8);
  std::vector<Plan> plans;
  for (const auto& sized : schedules) plans.push_back(sized.plan());
  std::mt19937 random(11);
  std::exponential_distribution<double> time(1);
  for (int run = 0; run < 10000; ++run) {
    const std::size_t which = random() % plans.size();
    const Plan& plan = plans[which];
    const double transfer = run % 3 == 0 ? 0 : time(random);
    std::map<std::string, double> times;
    const auto duration = [&](const Action& action) {
      const double taken = time(random);
      EXPECT_TRUE(times.emplace(to_string(action), taken).second) << "asked twice: " << action;
      return taken;
    };
    const Simulation simulation = plan.simulate(duration, transfer);
    ASSERT_EQ(simulation.duration, LongestWay(plan, times, transfer).all())
        << schedules[which].text() << ", run " << run;
    if (run % 16 == 0) check_timeline(plan, simulation, transfer);
    double busiest = 0;
    for (const auto& row : simulation.timeline) {
      double busy = 0;
      for (const auto& timed : row) busy += times.at(to_string(timed.action));
      busiest = std::max(busiest, busy);
    }
    ASSERT_GE(simulation.duration, busiest * (1 - 1e-12));
  }
}

TEST(PipelineSimulation, TakesCostsOfStagesAndOfTransfers) {
  const Plan plan = one_f_one_b().plan(2, 1, 2);
  SimulationCosts costs;
  costs.stages = {{.forward = 1, .input = 1, .weight = 1}, {.forward = 2, .input = 2, .weight = 2}};
  // The second rank waits 1, works 2 * 6; the first one's last backward comes behind.
  EXPECT_EQ(plan.simulate(costs).duration, 1 + 12 + 2);
  EXPECT_EQ(plan.simulate(costs).idle, (std::vector<double>{15 - 6, 15 - 12}));
  EXPECT_EQ(plan.simulate(costs).bubble, 9.0 / 15);
  costs.transfer = 0.5;
  EXPECT_EQ(plan.simulate(costs).duration, 1 + 0.5 + 12 + 0.5 + 2);
  costs.stages[1].backward = 3;
  EXPECT_EQ(plan.simulate(costs).duration, 1 + 0.5 + 10 + 0.5 + 2);
  SimulationCosts same;
  same.backward = 1;
  EXPECT_EQ(plan.simulate(same).duration, (2 + 1) * 2);
  // The costs of all stages count for nothing beside those of each.
  same.stages = {{}, {}};
  EXPECT_EQ(plan.simulate(same).duration, (2 + 1) * 3);
  // No way from a rank to itself.
  EXPECT_EQ(gpipe().plan(1, 2, 3).simulate({.transfer = 7}).duration, 2 * 3 * 3);
  const Simulation nothing = plan.simulate({.forward = 0, .input = 0, .weight = 0});
  EXPECT_EQ(nothing.duration, 0);
  EXPECT_EQ(nothing.bubble, 0);
}

TEST(PipelineSimulation, RefusesWhatIsNoTime) {
  const Plan plan = one_f_one_b().plan(2, 1, 2);
  const auto refuse = [&](const SimulationCosts& costs, const std::string& part) {
    expect_refusal([&] { static_cast<void>(plan.simulate(costs)); }, part);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  refuse({.forward = -1}, "a forward takes -1; times are finite and not negative");
  refuse({.input = nan}, "the gradient of an input takes nan");
  refuse({.weight = infinity}, "the gradients of weights takes inf");
  refuse({.backward = -2}, "a backward takes -2");
  refuse({.forward = 1e308}, "add up to more than a number can hold");
  refuse({.transfer = -0.5}, "a transfer takes -0.5");
  refuse({.stages = {{}}}, "costs of 1 stages were given, and the plan has 2");
  refuse({.stages = {{}, {.weight = nan}}}, "the gradients of weights takes nan");
  expect_refusal(
      [&] {
        static_cast<void>(
            plan.simulate([](const Action& action) { return action.stage == 1 ? -1.0 : 1.0; }));
      },
      "1F0 takes -1");
}

TEST(PipelineSimulation, IsAGridInTimeWithFigures) {
  std::ostringstream out;
  out << usual("1f1b", 2, 1, 2);
  EXPECT_EQ(out.str(),
            "rank 0  0F0 0F1 .   .   0B0---- .   0B1----\n"
            "rank 1  .   1F0 1B0---- 1F1 1B1---- .   .\n"
            "duration 9, bubble 33.3 %, idle 3 3, microbatches held at most 2 1");
  // An input of one of two stages counts for half a microbatch; the shortest action is the unit.
  const std::string text =
      usual("interleaved", 2, 2, 4, {.forward = 0.5, .input = 0.5, .weight = 0.5}).to_text();
  EXPECT_NE(text.find("rank 1  .   1F0 1F1 3F0 3B0---- 3F1"), std::string::npos) << text;
  EXPECT_NE(
      text.find("duration 13.5, bubble 11.1 %, idle 1.5 1.5, microbatches held at most 2.5 1.5"),
      std::string::npos)
      << text;
  // Times of many sizes still make lines that can be read.
  const Simulation uneven = usual("1f1b", 2, 1, 8, {.forward = 1e-7, .input = 1, .weight = 1});
  EXPECT_LT(uneven.to_text().size(), 2 * 513 * 4 + 200U);
  EXPECT_EQ(Simulation().to_text(), "duration 0, bubble 0.0 %, idle, microbatches held at most");
}

TEST(PipelineSimulation, GivesTheGridsOfThePage) {
  std::ifstream file(LOCKSTEP_PIPELINE_PAGE);
  const std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::vector<std::pair<std::string, std::int64_t>> shown = {
      {"gpipe", 1}, {"1f1b", 1}, {"interleaved", 2}, {"zero_bubble", 1}, {"zbv", 2}};
  for (const auto& [name, stages_per_rank] : shown) {
    const std::string text = usual(name, 2, stages_per_rank, 4).to_text() + '\n';
    EXPECT_NE(page.find(text), std::string::npos) << "docs/pipeline_schedules.md lacks\n" << text;
  }
}

}  // namespace
}  // namespace lockstep::pipeline

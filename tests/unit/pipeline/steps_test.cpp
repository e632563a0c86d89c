// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/pipeline/plan.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "pipeline/schedule/rendezvous.h"
#include "support/expected_errors.h"
#include "unit/pipeline/schedule_sizes.h"

namespace lockstep::pipeline {
namespace {

using StepRows = std::vector<std::vector<Step>>;
/// Kind of traffic, stage that sends, microbatch.
using MessageName = std::tuple<Traffic, std::int64_t, std::int64_t>;

constexpr double kNever = std::numeric_limits<double>::infinity();

MessageName name_of(const Step& step) {
  const bool sends = step.kind == StepKind::Send;
  const std::int64_t back = step.traffic == Traffic::Activation ? -1 : 1;
  return {step.traffic, sends ? step.stage : step.stage + back, step.microbatch};
}

StepRows steps_of(const Plan& plan) {
  StepRows rows;
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) rows.push_back(plan.steps(rank));
  return rows;
}

std::string text_of(const std::vector<Step>& steps) {
  std::ostringstream text;
  for (const Step& step : steps) text << step << ' ';
  return text.str();
}

TEST(PipelineSteps, OfTwoRanks) {
  const Plan plan = one_f_one_b().plan(2, 1, 3);
  EXPECT_EQ(text_of(plan.steps(0)),
            "0COMPUTE0 0SEND_F0 0RECV_B0 0COMPUTE1 0SEND_F1 0WAIT_B0 0COMPUTE0 0RECV_B1 0COMPUTE2 "
            "0SEND_F2 0RECV_B2 0WAIT_B1 0COMPUTE1 0WAIT_B2 0COMPUTE2 ");
  EXPECT_EQ(text_of(plan.steps(1)),
            "1RECV_F0 1RECV_F1 1WAIT_F0 1COMPUTE0 1COMPUTE0 1SEND_B0 1WAIT_F1 1COMPUTE1 1RECV_F2 "
            "1COMPUTE1 1SEND_B1 1WAIT_F2 1COMPUTE2 1COMPUTE2 1SEND_B2 ");
}

/// Everything about the steps of one rank but the order of ranks among each other.
void check_steps_of_rank(const Plan& plan, std::int64_t rank) {
  const auto steps = plan.steps(rank);
  std::map<MessageName, int> state;  // 1: posted, 2: waited for
  std::map<std::int64_t, std::vector<MessageName>> expected_sends;
  std::size_t computed = 0;
  for (const Step& step : steps) {
    const bool known =
        step.action >= 0 && step.action < static_cast<std::int64_t>(plan.actions(rank).size());
    ASSERT_TRUE(known);
    const Action& action = plan.actions(rank)[static_cast<std::size_t>(step.action)];
    EXPECT_EQ(action.stage, step.stage);
    EXPECT_EQ(action.microbatch, step.microbatch);
    if (step.kind == StepKind::Compute) {
      EXPECT_EQ(step.action, static_cast<std::int64_t>(computed++));
      EXPECT_EQ(step.peer, rank);
      const Need need = need_of(action, plan.stages());
      if (need.exists && plan.rank_of(need.stage) != rank) {
        const MessageName message{need.of_forward ? Traffic::Activation : Traffic::Gradient,
                                  need.stage, action.microbatch};
        EXPECT_EQ(state[message], 2) << "used before it is waited for: " << action;
      }
      continue;
    }
    EXPECT_EQ(step.peer,
              plan.rank_of(step.kind == StepKind::Send
                               ? step.stage + (step.traffic == Traffic::Activation ? 1 : -1)
                               : std::get<1>(name_of(step))));
    EXPECT_NE(step.peer, rank);
    if (step.kind == StepKind::Send) {
      EXPECT_EQ(step.action + 1, static_cast<std::int64_t>(computed)) << "not sent at once";
      EXPECT_EQ(step.traffic == Traffic::Activation, action.kind == ActionKind::Forward);
      EXPECT_NE(action.kind, ActionKind::BackwardWeight);
    } else {
      const int before = step.kind == StepKind::PostReceive ? 0 : 1;
      EXPECT_EQ(state[name_of(step)]++, before) << step;
      // One action at least lies between, except where there is none.
      const bool early = step.action > static_cast<std::int64_t>(computed) || step.action == 0;
      EXPECT_TRUE(step.kind == StepKind::WaitReceive || early) << step;
    }
  }
  EXPECT_EQ(computed, plan.actions(rank).size());
  for (const auto& [message, times] : state) EXPECT_EQ(times, 2);
}

/// Each message is sent and posted, in the same order for a kind between two ranks.
void check_messages(const StepRows& rows) {
  std::map<std::tuple<Traffic, std::int64_t, std::int64_t>, std::vector<MessageName>> sent, posted;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto rank = static_cast<std::int64_t>(i);
    for (const Step& step : rows[i]) {
      if (step.kind == StepKind::Send) {
        sent[{step.traffic, rank, step.peer}].push_back(name_of(step));
      } else if (step.kind == StepKind::PostReceive) {
        posted[{step.traffic, step.peer, rank}].push_back(name_of(step));
      }
    }
  }
  EXPECT_EQ(sent, posted);
}

TEST(PipelineSteps, SendWhatOthersNeedInOneOrder) {
  for (const auto& sized : small_schedules()) {
    SCOPED_TRACE(sized.text());
    const Plan plan = sized.plan();
    for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) check_steps_of_rank(plan, rank);
    check_messages(steps_of(plan));
  }
}

/// Ranks take turns at random. Nothing is buffered: a send ends when its receive is posted.
bool end_with_blocking_sends(const StepRows& rows, std::mt19937& random) {
  std::map<MessageName, int> state;  // 1: posted, 2: sent
  std::vector<std::size_t> next(rows.size());
  for (int idle = 0; idle < 64 * static_cast<int>(rows.size()); ++idle) {
    const std::size_t rank = random() % rows.size();
    if (next[rank] == rows[rank].size()) continue;
    const Step& step = rows[rank][next[rank]];
    int& message = state[name_of(step)];
    if (step.kind == StepKind::WaitReceive && message != 2) continue;
    if (step.kind == StepKind::Send && message != 1) continue;
    if (step.kind == StepKind::Send) message = 2;
    if (step.kind == StepKind::PostReceive) message = 1;
    ++next[rank];
    idle = 0;
  }
  for (std::size_t rank = 0; rank < rows.size(); ++rank) {
    if (next[rank] != rows[rank].size()) return false;
  }
  return true;
}

TEST(PipelineSteps, EndWhereNothingIsBuffered) {
  std::mt19937 random(3);
  for (const auto& sized : small_schedules(4, 8)) {
    const auto rows = steps_of(sized.plan());
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(end_with_blocking_sends(rows, random)) << sized.text();
    }
  }
}

/// Each receive is posted where it is waited for.
StepRows with_late_receives(const StepRows& rows) {
  StepRows late_rows;
  for (const auto& row : rows) {
    std::map<MessageName, Step> posts;
    auto& late = late_rows.emplace_back();
    for (const Step& step : row) {
      if (step.kind == StepKind::PostReceive) posts[name_of(step)] = step;
      if (step.kind == StepKind::WaitReceive) late.push_back(posts[name_of(step)]);
      if (step.kind != StepKind::PostReceive) late.push_back(step);
    }
  }
  return late_rows;
}

TEST(PipelineSteps, AreFoundToHangWhereReceivesArePostedTooLate) {
  const Plan plan = one_f_one_b().plan(2, 1, 4);
  const auto rows = steps_of(plan);
  const auto late = with_late_receives(rows);
  std::mt19937 random(3);
  EXPECT_FALSE(end_with_blocking_sends(late, random));
  require_rendezvous(plan, rows);
  testing::expect_refusal([&] { require_rendezvous(plan, late); },
                          "never ends where a send waits for its receive: rank 0 waits in 0SEND_F1 "
                          "for rank 1");
  // And where one is missing.
  auto without = rows;
  without[1].erase(without[1].begin());
  testing::expect_refusal([&] { require_rendezvous(plan, without); },
                          "rank 0 waits in 0SEND_F0 for rank 1");
  auto silent = rows;
  std::erase_if(silent[0], [](const Step& step) { return step.kind == StepKind::Send; });
  testing::expect_refusal([&] { require_rendezvous(plan, silent); },
                          "rank 0 waits in 0WAIT_B0 for rank 1");
  std::erase_if(silent[0], [](const Step& step) { return step.kind == StepKind::WaitReceive; });
  testing::expect_refusal([&] { require_rendezvous(plan, silent); },
                          "rank 1 waits in 1WAIT_F0 for rank 0");
}

/// When each rank is through, if actions take their usual time and sends wait for receives. Walks
/// until nothing changes: slow, and unlike the library's walk.
double duration_with_blocking_sends(const Plan& plan, const StepRows& rows) {
  std::map<MessageName, double> posted, sent;
  const auto time_in = [](const std::map<MessageName, double>& times, const MessageName& message) {
    const auto found = times.find(message);
    return found == times.end() ? kNever : found->second;
  };
  double duration = 0;
  for (std::size_t pass = 0, changes = 1; changes > 0 && pass < 4096; ++pass) {
    changes = 0;
    duration = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      double now = 0;
      for (const Step& step : rows[i]) {
        const Action& action =
            plan.actions(static_cast<std::int64_t>(i))[static_cast<std::size_t>(step.action)];
        const auto message = name_of(step);
        if (step.kind == StepKind::Compute) now += action.kind == ActionKind::Backward ? 2 : 1;
        if (step.kind == StepKind::WaitReceive) now = std::max(now, time_in(sent, message));
        if (step.kind == StepKind::Send) now = std::max(now, time_in(posted, message));
        if (now == kNever) break;
        if (step.kind == StepKind::Compute || step.kind == StepKind::WaitReceive) continue;
        auto& times = step.kind == StepKind::Send ? sent : posted;
        if (times.emplace(message, now).second) ++changes;
      }
      duration = std::max(duration, now);
    }
  }
  return duration;
}

TEST(PipelineSteps, LetNoSenderWaitWhereActionsTakeTheirUsualTime) {
  for (const auto& sized : small_schedules()) {
    const Plan plan = sized.plan();
    const double expected = plan.simulate({.forward = 1, .input = 1, .weight = 1}).duration;
    EXPECT_EQ(duration_with_blocking_sends(plan, steps_of(plan)), expected) << sized.text();
  }
}

TEST(PipelineSteps, PostNoReceiveBeforeItIsUseful) {
  for (const auto& sized : small_schedules()) {
    const Plan plan = sized.plan();
    const auto timeline = plan.simulate({.forward = 1, .input = 1, .weight = 1}).timeline;
    std::map<MessageName, double> made;
    for (const auto& row : timeline) {
      for (const auto& [action, start, end] : row) {
        const bool forward = action.kind == ActionKind::Forward;
        if (action.kind == ActionKind::BackwardWeight) continue;
        made[{forward ? Traffic::Activation : Traffic::Gradient, action.stage, action.microbatch}] =
            end;
      }
    }
    for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
      const auto& times = timeline[static_cast<std::size_t>(rank)];
      std::size_t computed = 0;
      for (const Step& step : plan.steps(rank)) {
        if (step.kind == StepKind::Compute) ++computed;
        if (step.kind != StepKind::PostReceive || computed == 0) continue;
        EXPECT_GT(made.at(name_of(step)), times[computed].start) << sized.text() << ' ' << step;
      }
    }
  }
}

TEST(PipelineSteps, FollowTheOrderOfSendsWhereUsesHaveAnother) {
  // Rank 1 takes microbatch 1 before microbatch 0.
  const Plan plan = Plan::from_csv("0F0,0F1,0B1,0B0\n1F1,1B1,1F0,1B0\n");
  plan.check();
  check_steps_of_rank(plan, 0);
  check_steps_of_rank(plan, 1);
  check_messages(steps_of(plan));
  std::mt19937 random(3);
  EXPECT_TRUE(end_with_blocking_sends(steps_of(plan), random));
}

/// The most results at once, by the definition: for each begin of an action that makes one, all
/// that it does not depend on is late.
class PeakByDefinition {
 public:
  explicit PeakByDefinition(const Plan& plan) : plan_(plan) {}

  std::int64_t peak(std::int64_t maker_stage, ActionKind maker_kind, std::int64_t user_stage) {
    std::int64_t most = 0;
    std::int64_t made = 0;
    const auto& actions = plan_.actions(plan_.rank_of(maker_stage));
    for (std::size_t i = 0; i < actions.size(); ++i) {
      const bool is_input = actions[i].kind == ActionKind::BackwardInput;
      const bool is_maker =
          actions[i].kind == maker_kind || (is_input && maker_kind == ActionKind::Backward);
      if (actions[i].stage != maker_stage || !is_maker) continue;
      before_.clear();
      find_before(plan_.rank_of(maker_stage), i);
      most = std::max(most, ++made - ended_before(user_stage));
    }
    return most;
  }

 private:
  /// Everything that must have ended before this action begins.
  void find_before(std::int64_t rank, std::size_t place) {
    if (place > 0) add(rank, place - 1);
    const Action& action = plan_.actions(rank)[place];
    const Need need = need_of(action, plan_.stages());
    if (!need.exists) return;
    const std::int64_t there = plan_.rank_of(need.stage);
    const auto& actions = plan_.actions(there);
    for (std::size_t i = 0; i < actions.size(); ++i) {
      if (makes(actions[i], need, action.microbatch)) add(there, i);
    }
  }
  void add(std::int64_t rank, std::size_t place) {
    auto& known = before_[{rank, place}];
    if (known) return;
    known = true;
    find_before(rank, place);
  }
  std::int64_t ended_before(std::int64_t stage) {
    std::int64_t count = 0;
    for (const auto& [where, known] : before_) {
      const Action& action = plan_.actions(where.first)[where.second];
      const bool ends =
          action.kind == ActionKind::Backward || action.kind == ActionKind::BackwardWeight;
      if (ends && action.stage == stage) ++count;
    }
    return count;
  }

  const Plan& plan_;
  std::map<std::pair<std::int64_t, std::size_t>, bool> before_;
};

TEST(PipelineSteps, InFlightIsWhatSlowRanksLeaveTogether) {
  for (const auto& sized : small_schedules(4, 6)) {
    SCOPED_TRACE(sized.text());
    const Plan plan = sized.plan();
    PeakByDefinition expected(plan);
    for (std::int64_t stage = 0; stage < plan.stages(); ++stage) {
      const std::int64_t maker = std::max<std::int64_t>(0, stage - 1);
      EXPECT_EQ(plan.peak_in_flight(stage), expected.peak(maker, ActionKind::Forward, stage));
      const bool last = stage + 1 == plan.stages();
      EXPECT_EQ(plan.peak_gradients_in_flight(stage),
                last ? 0 : expected.peak(stage + 1, ActionKind::Backward, stage));
    }
  }
}

TEST(PipelineSteps, InFlightOfSchedulesThatAreKnown) {
  for (std::int64_t p = 1; p <= 6; ++p) {
    for (std::int64_t m = p; m <= 12; ++m) {
      const Plan all = gpipe().plan(p, 1, m);
      const Plan few = one_f_one_b().plan(p, 1, m);
      EXPECT_EQ(few.peak_in_flight(0), p);
      for (std::int64_t stage = 0; stage < p; ++stage) {
        EXPECT_EQ(all.peak_in_flight(stage), m);
        // One more than the stage holds: the stage before writes the next one.
        EXPECT_EQ(few.peak_in_flight(stage), stage == 0 ? p : std::min(m, p - stage + 1));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::pipeline

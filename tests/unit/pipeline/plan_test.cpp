// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/pipeline/plan.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/expected_errors.h"

namespace lockstep::pipeline {
namespace {

using testing::expect_refusal;

TEST(PipelineAction, HasTheTextOfPyTorch) {
  const std::vector<std::pair<std::string, Action>> texts = {
      {"2F0", {ActionKind::Forward, 2, 0}},
      {"1I3", {ActionKind::BackwardInput, 1, 3}},
      {"0W12", {ActionKind::BackwardWeight, 0, 12}},
      {"123456789B0", {ActionKind::Backward, 123456789, 0}}};
  for (const auto& [text, action] : texts) {
    EXPECT_EQ(to_string(action), text);
    EXPECT_EQ(parse_action(text), action);
    std::ostringstream out;
    out << action;
    EXPECT_EQ(out.str(), text);
  }
}

TEST(PipelineAction, RefusesOtherTexts) {
  for (const std::string text :
       {"", "F0", "1F", "1", "1X0", "1f0", "1F0 ", " 1F0", "-1F0", "1F-1", "1F0x", "1F1F1",
        "1234567890F0", "1F1234567890", "1FF0", "99999999999999999999F0"}) {
    expect_refusal([&] { static_cast<void>(parse_action(text)); }, "as in 2F0");
  }
  expect_refusal([] { static_cast<void>(parse_action("a\nb")); }, "found 'a\\x0ab'");
}

TEST(PipelinePlan, KnowsItsSizes) {
  const Plan plan = Plan::from_csv("0F0,3F0,3B0,0B0\n1F0,2F0,2I0,1I0,1W0,2W0\n");
  EXPECT_EQ(plan.ranks(), 2);
  EXPECT_EQ(plan.stages(), 4);
  EXPECT_EQ(plan.stages_per_rank(), 2);
  EXPECT_EQ(plan.microbatches(), 1);
  EXPECT_EQ(plan.rank_of(3), 0);
  EXPECT_EQ(plan.rank_of(2), 1);
  EXPECT_EQ(plan.stages_of(0), (std::vector<std::int64_t>{0, 3}));
  EXPECT_EQ(plan.stages_of(1), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(plan.actions(1)[2], (Action{ActionKind::BackwardInput, 2, 0}));
  EXPECT_TRUE(plan.has_split_backward());
  EXPECT_EQ(plan.last_backward(1), (Action{ActionKind::BackwardWeight, 1, 0}));
  EXPECT_EQ(plan.last_backward(0), (Action{ActionKind::Backward, 0, 0}));
  EXPECT_EQ(plan.last_backward(2), (Action{ActionKind::BackwardWeight, 2, 0}));
  EXPECT_EQ(plan.last_backward(3), (Action{ActionKind::Backward, 3, 0}));
  EXPECT_FALSE(Plan::from_csv("0F0,0B0\n").has_split_backward());
  plan.check();
}

TEST(PipelinePlan, RefusesPlacesThatDoNotExist) {
  const Plan plan = Plan::from_csv("0F0,0B0\n1F0\n");
  for (const std::int64_t stage : {-1, 2}) {
    const std::string part = "has 2 stages; there is no stage " + std::to_string(stage);
    expect_refusal([&] { static_cast<void>(plan.rank_of(stage)); }, part);
    expect_refusal([&] { static_cast<void>(plan.last_backward(stage)); }, part);
    expect_refusal([&] { static_cast<void>(plan.peak_in_flight(stage)); }, part);
    expect_refusal([&] { static_cast<void>(plan.peak_gradients_in_flight(stage)); }, part);
  }
  for (const std::int64_t rank : {-1, 2}) {
    const std::string part = "has 2 ranks; there is no rank " + std::to_string(rank);
    expect_refusal([&] { static_cast<void>(plan.actions(rank)); }, part);
    expect_refusal([&] { static_cast<void>(plan.stages_of(rank)); }, part);
    expect_refusal([&] { static_cast<void>(plan.steps(rank)); }, part);
  }
  expect_refusal([&] { static_cast<void>(plan.last_backward(1)); }, "no backward of stage 1");
}

TEST(PipelinePlan, RefusesWhatIsNoPlan) {
  using Rows = std::vector<std::vector<Action>>;
  const auto refuse = [](const Rows& rows, const std::string& part) {
    expect_refusal([&] { const Plan plan(rows); }, part);
  };
  using enum ActionKind;
  refuse({}, "has no ranks");
  refuse({{{Forward, 0, 0}}, {}}, "no actions for rank 1 of 2");
  refuse({{{Forward, -1, 0}}}, "rank 0 has the action -1F0");
  refuse({{{Forward, 0, -2}}}, "rank 0 has the action 0F-2");
  refuse({{{Forward, 0, 0}, {Forward, 1, 0}}, {{Forward, 2, 0}, {Forward, 1, 1}}},
         "has stage 1 on rank 0 and on rank 1 (1F1)");
  refuse({{{Forward, 0, 0}}, {{Forward, 2, 0}}}, "no action of stage 1, but one of stage 2");
  refuse({{{Forward, 0, 0}, {Forward, 0, 7}}},
         "no action of microbatch 1, but one of microbatch 7");
  refuse({{{Forward, 0, 0}}, {{Forward, 1, 0}, {Forward, 2, 0}}},
         "1 stage(s) on rank 0 and 2 on rank 1");
  refuse({std::vector<Action>((std::size_t{1} << 20) + 1)}, "1048577 actions; at most 1048576");
}

void refuse_plan(const std::string& csv, const std::string& part) {
  const Plan plan = Plan::from_csv(csv);
  expect_refusal([&] { plan.check(); }, part);
  expect_refusal([&] { static_cast<void>(plan.steps(0)); }, part);
  expect_refusal([&] { static_cast<void>(plan.simulate({.forward = 1})); }, part);
  expect_refusal([&] { static_cast<void>(plan.peak_in_flight(0)); }, part);
  expect_refusal([&] { static_cast<void>(plan.peak_gradients_in_flight(0)); }, part);
  EXPECT_FALSE(plan.to_text().empty());  // who looks for the mistake wants to see it
}

TEST(PipelinePlan, MustHaveEachMicrobatchOnce) {
  refuse_plan("0F0,0B0,0F1,0B1\n1F0,1B0,1B1\n", "lacks 1F1, which rank 1 must have");
  refuse_plan("0F0,0B0,0F0\n", "has 0F0 twice: actions 0 and 2 of rank 0");
  refuse_plan("0F0,0B0,0B0\n", "has 0B0 twice: actions 1 and 2 of rank 0");
  refuse_plan("0F0\n",
              "lacks the backward of stage 0 for microbatch 0: rank 0 must have 0B0, or 0I0 and");
  refuse_plan("0F0,0I0\n", "lacks the backward of stage 0");
  refuse_plan("0F0,0W0\n", "lacks the backward of stage 0");
  refuse_plan("0F0,0B0,0W0\n", "twice: rank 0 has 0B0 as well as 0W0");
  refuse_plan("0F0,0I0,0B0\n", "twice: rank 0 has 0B0 as well as 0I0");
}

TEST(PipelinePlan, MustBeInAnOrderThatCanBeComputed) {
  refuse_plan("0B0,0F0\n", "rank 0 has 0B0 (its action 0) before 0F0 (its action 1)");
  refuse_plan("0I0,0F0,0W0\n", "rank 0 has 0I0 (its action 0) before 0F0");
  refuse_plan("0F0,0W0,0I0\n", "rank 0 has 0W0 (its action 1) before 0I0 (its action 2)");
}

TEST(PipelinePlan, SaysWhichRankWaitsForWhat) {
  refuse_plan(
      "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n",
      "never ends: rank 0 waits before 0B0 (its action 1) for the result of 1B0 (action 2 of "
      "rank 1); rank 1 waits before 1F1 (its action 1) for the result of 0F1 (action 2 of rank "
      "0)");
  // On one rank.
  refuse_plan("1F0,0F0,1B0,0B0\n",
              "rank 0 waits before 1F0 (its action 0) for the result of 0F0 (action 1 of rank 0)");
  // With the two parts of a backward.
  refuse_plan("0F0,0F1,0I1,0W1,0I0,0W0\n1F0,1I0,1W0,1I1,1F1,1W1\n", "rank 1 has 1I1");
  refuse_plan("0F0,0F1,0I1,0F2,0W1,0I0,0W0,0I2,0W2\n1F0,1I0,1W0,1F1,1F2,1I1,1W1,1I2,1W2\n",
              "rank 0 waits before 0I1 (its action 2) for the result of 1I1 (action 5 of rank 1)");
}

TEST(PipelinePlan, NamesNoMoreThanEightRanksThatWait) {
  std::string csv = "0F0,0B0,0F1,0B1\n";
  for (int rank = 1; rank < 12; ++rank) {
    for (const std::string piece : {"F0", "F1", "B0", "B1"}) {
      csv += std::to_string(rank);
      csv += piece;
      csv += piece == "B1" ? '\n' : ',';
    }
  }
  refuse_plan(csv,
              "rank 7 waits before 7F1 (its action 1) for the result of 6F1 (action 1 of rank 6); "
              "and more ranks");
}

TEST(PipelinePlan, TheOrderThatPyTorchPrintsFor1F1BCannotRun) {
  // In 2.11, the last of two stages has microbatches 1 and 2.
  refuse_plan("0F0,0F1,0B0,0B1\n1F1,1B0,1F2,1B1\n", "lacks 0F2");
}

TEST(PipelinePlan, WritesAndReadsPyTorchsForm) {
  const std::string csv = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n";
  const Plan plan = Plan::from_csv(csv);
  EXPECT_EQ(plan.to_csv(), csv);
  // Python's module csv ends lines so; a cell without an action is empty.
  EXPECT_EQ(Plan::from_csv("0F0,0F1,,,0B0,0B1\r\n,1F0, 1B0\t,1F1,1B1,\r\n"), plan);
  EXPECT_EQ(Plan::from_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1"), plan);
  EXPECT_EQ(Plan::from_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n\n\r\n"), plan);
  // What PyTorch adds for messages and sharded weights.
  EXPECT_EQ(Plan::from_csv("0UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0RESHARD,"
                           "0REDUCE_GRAD\n1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1\n"),
            plan);
}

TEST(PipelinePlan, SaysWhereATextIsWrong) {
  const auto refuse_text = [](const std::string& text, const std::string& part) {
    expect_refusal([&] { static_cast<void>(Plan::from_csv(text)); }, part);
  };
  refuse_text("", "has no ranks");
  refuse_text("\n", "has no ranks");
  refuse_text("0F0,0B0\n1F0,x1B0\n", "line 2, cell 2: expected stage, kind");
  refuse_text("0F0,0B0\n1F0,1 B0\n", "line 2, cell 2: expected stage, kind");
  refuse_text("0F0 0B0\n", "line 1, cell 1: expected stage, kind");
  refuse_text("0F0,(0F1;0B0)OVERLAP_F_B\n", "found '(0F1;0B0)OVERLAP_F_B'");
  refuse_text("0F0,0SEND_F\n", "cell 2");
  refuse_text("0F0,0RESHARD1\n", "cell 2");
  refuse_text("0F0,SEND_F1\n", "cell 2");
  refuse_text("0F0,0SEND_F1x\n", "cell 2");
  refuse_text("0F0,0\n", "cell 2");
  refuse_text("0F0,0B0\n\n1F0,1B0\n", "no actions for rank 1 of 3");
  refuse_text("0F0,0B0\n1UNSHARD\n", "no actions for rank 1 of 2");
  std::string lines;
  for (int i = 0; i < 4097; ++i) lines += "0F0\n";
  refuse_text(lines, "more than 4096 lines");
  std::string cells;
  for (int i = 0; i <= 1 << 20; ++i) cells += "0F0,";
  refuse_text(cells, "more than 1048576 actions");
  // Large numbers take no memory.
  refuse_text("0F0,0F999999999\n", "no action of microbatch 1, but one of microbatch 999999999");
  refuse_text("0F0,999999999F0\n", "no action of stage 1, but one of stage 999999999");
}

TEST(PipelinePlan, IsAGrid) {
  const Plan plan = Plan::from_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
  std::ostringstream out;
  out << plan;
  EXPECT_EQ(out.str(),
            "rank 0  0F0 0F1 .   0B0 .   0B1\n"
            "rank 1  .   1F0 1B0 1F1 1B1 .");
  // Lines of large plans stay within bounds.
  std::string large;
  for (int i = 0; i < 9999; ++i) {
    for (const std::string start : {"0F", "0B"}) large += start + std::to_string(i) + ',';
  }
  EXPECT_LT(Plan::from_csv(large).to_text().size(), 4098 * 7U);
  // That of a plan which cannot run has no waits.
  EXPECT_EQ(Plan::from_csv("0F0,0F1\n").to_text(), "rank 0  0F0 0F1");
}

}  // namespace
}  // namespace lockstep::pipeline

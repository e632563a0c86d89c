// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/pipeline/schedule.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "support/expected_errors.h"
#include "unit/pipeline/schedule_sizes.h"

namespace lockstep::pipeline {
namespace {

using testing::expect_refusal;

/// A file that goes with the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    std::string pattern = std::filesystem::temp_directory_path() / "lockstep_plan_XXXXXX";
    const int file = ::mkstemp(pattern.data());
    EXPECT_GE(file, 0);
    ::close(file);
    path_ = pattern;
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What PyTorch 2.11 makes, but for the order of microbatches in breadth-first backwards.
TEST(PipelineSchedule, HasTheOrdersOfPyTorch) {
  EXPECT_EQ(gpipe().plan(2, 1, 2).to_csv(), "0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1\n");
  EXPECT_EQ(gpipe().plan(2, 2, 2).to_csv(),
            "0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1\n1F0,1F1,3F0,3F1,3B0,3B1,1B0,1B1\n");
  EXPECT_EQ(one_f_one_b().plan(2, 1, 3).to_csv(),
            "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n");
  EXPECT_EQ(interleaved().plan(2, 2, 4).to_csv(),
            "0F0,0F1,2F0,2F1,0F2,2B0,0F3,2B1,2F2,0B0,2F3,0B1,2B2,2B3,0B2,0B3\n"
            "1F0,1F1,3F0,3B0,3F1,3B1,1F2,1B0,1F3,1B1,3F2,3B2,3F3,3B3,1B2,1B3\n");
  EXPECT_EQ(zero_bubble().plan(2, 1, 4).to_csv(),
            "0F0,0F1,0I0,0W0,0F2,0I1,0W1,0F3,0I2,0W2,0I3,0W3\n"
            "1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1F3,1I3,1W2,1W3\n");
  EXPECT_EQ(
      zbv().plan(2, 2, 4).to_csv(),
      "0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0F3,0I0,0W0,3F2,3I2,3W2,0I1,0W1,3F3,3I3,3W3,0I2,0W2,"
      "0I3,0W3\n"
      "1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1F3,1I1,1W1,2F3,2I2,2W2,1I2,2I3,1I3,1W2,"
      "2W3,1W3\n");
}

TEST(PipelineSchedule, SpreadsStages) {
  EXPECT_EQ(interleaved().plan(3, 2, 3).stages_of(1), (std::vector<std::int64_t>{1, 4}));
  EXPECT_EQ(zbv().plan(3, 2, 3).stages_of(1), (std::vector<std::int64_t>{1, 4}));
  EXPECT_EQ(zbv().plan(3, 2, 3).stages_of(0), (std::vector<std::int64_t>{0, 5}));
}

TEST(PipelineSchedule, MakesPlansThatPassTheCheck) {
  for (const auto& sized : small_schedules(6, 12)) {
    const Plan plan = sized.plan();  // checks itself
    EXPECT_EQ(plan.ranks(), sized.ranks) << sized.text();
    EXPECT_EQ(plan.stages_per_rank(), sized.stages_per_rank) << sized.text();
    EXPECT_EQ(plan.microbatches(), sized.microbatches) << sized.text();
    EXPECT_EQ(plan.has_split_backward(), sized.name.starts_with("z")) << sized.text();
    EXPECT_EQ(Plan::from_csv(plan.to_csv()), plan) << sized.text();
  }
}

void refuse_size(const Schedule& schedule, std::int64_t ranks, std::int64_t stages_per_rank,
                 std::int64_t microbatches, const std::string& part) {
  expect_refusal([&] { static_cast<void>(schedule.plan(ranks, stages_per_rank, microbatches)); },
                 part);
}

TEST(PipelineSchedule, RefusesSizesWithWhichItCannotRun) {
  refuse_size(one_f_one_b(), 4, 1, 3, "3 microbatch(es) on 4 ranks cannot fill the pipeline");
  refuse_size(one_f_one_b(), 4, 2, 8, "1F1B has one stage a rank, not 2; interleaved()");
  refuse_size(interleaved(), 4, 2, 13,
              "13 microbatches on 4 ranks make 3 rounds, which do not divide 13");
  refuse_size(zero_bubble(), 2, 1, 5,
              "5 microbatches on 2 ranks make 2 rounds, which do not divide 5");
  refuse_size(zbv(), 2, 1, 4, "ZBV has two stages a rank, not 1");
  refuse_size(zbv(), 2, 3, 4, "ZBV has two stages a rank, not 3");
  for (const auto& schedule : {gpipe(), one_f_one_b(), interleaved(), zero_bubble(), zbv()}) {
    refuse_size(schedule, 0, 1, 1, schedule.name() + " was asked for 0 rank(s)");
    refuse_size(schedule, 1, 0, 1, "0 stage(s) a rank");
    refuse_size(schedule, 1, 1, -3, "-3 microbatch(es); each is at least 1");
    refuse_size(schedule, 1 << 9, 1 << 9, 2, "their product is at most 262144");
    refuse_size(schedule, INT64_MAX, 1, 1, "their product is at most 262144");
    refuse_size(schedule, 1, INT64_MAX, INT64_MAX, "their product is at most 262144");
  }
}

TEST(PipelineSchedule, MakesTheLargestPlans) {
  // Of the allowed sizes, with three actions for each stage and microbatch.
  const Plan plan = zero_bubble().plan(64, 1, 4096);
  EXPECT_EQ(plan.actions(63).size(), 3 * 4096U);
  EXPECT_EQ(plan.peak_in_flight(1), 66);
}

TEST(PipelineSchedule, MayBeTheProgramsOwn) {
  const Schedule own("backwards at once", [](std::int64_t ranks, std::int64_t, std::int64_t m) {
    std::vector<std::vector<Action>> rows(static_cast<std::size_t>(ranks));
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      for (std::int64_t i = 0; i < m; ++i) {
        rows[static_cast<std::size_t>(rank)].push_back({ActionKind::Forward, rank, i});
        rows[static_cast<std::size_t>(rank)].push_back({ActionKind::Backward, rank, i});
      }
    }
    return Plan(rows);
  });
  EXPECT_EQ(own.name(), "backwards at once");
  EXPECT_EQ(own.plan(2, 1, 2).simulate({.forward = 1, .input = 1, .weight = 1}).duration, 12);
  refuse_size(
      own, 2, 2, 2,
      "backwards at once is for 2 rank(s), 1 stage(s) a rank and 2 microbatch(es); it was asked "
      "for 2, 2 and 2");
  const Schedule broken("broken", [](std::int64_t, std::int64_t, std::int64_t) {
    return Plan::from_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n");
  });
  refuse_size(broken, 2, 1, 2, "never ends");
  expect_refusal([] { const Schedule none("empty", nullptr); }, "empty has no rule");
}

TEST(PipelineSchedule, MayBeAText) {
  const std::string csv = one_f_one_b().plan(2, 1, 3).to_csv();
  const Schedule schedule = from_text(csv);
  EXPECT_EQ(schedule.plan(2, 1, 3).to_csv(), csv);
  refuse_size(schedule, 2, 1, 4,
              "of a text is for 2 rank(s), 1 stage(s) a rank and 3 microbatch(es)");
  refuse_size(schedule, 3, 1, 3, "it was asked for 3, 1 and 3");
  expect_refusal([] { static_cast<void>(from_text("0F0,0B0\n1F0,1C0\n")); }, "line 2, cell 2");
  expect_refusal([] { static_cast<void>(from_text("0F0\n")); }, "lacks the backward of stage 0");
}

TEST(PipelineSchedule, MayBeAFile) {
  const std::string csv = zbv().plan(2, 2, 3).to_csv();
  const TemporaryFile file(csv);
  EXPECT_EQ(from_file(file.path()).plan(2, 2, 3).to_csv(), csv);
  refuse_size(from_file(file.path()), 2, 2, 4, "of " + file.path() + " is for 2 rank(s)");
  const TemporaryFile wrong("0F0,0B0\n0F1\n");
  expect_refusal([&] { static_cast<void>(from_file(wrong.path())); },
                 wrong.path() + ": a pipeline's plan has stage 0 on rank 0 and on rank 1");
  const TemporaryFile empty("");
  expect_refusal([&] { static_cast<void>(from_file(empty.path())); },
                 empty.path() + ": a pipeline's plan has no ranks");
  std::filesystem::resize_file(wrong.path(), (std::uintmax_t{16} << 20) + 1);
  expect_refusal([&] { static_cast<void>(from_file(wrong.path())); },
                 "has 16777217 bytes; a pipeline's plan has at most 16777216");
  expect_refusal([] { static_cast<void>(from_file("/no/such/plan")); },
                 "/no/such/plan: cannot be opened");
  expect_refusal([] { static_cast<void>(from_file("/")); }, "/: is not an ordinary file");
}

TEST(PipelineSchedule, HasANameForCommandLines) {
  for (const std::string name : {"gpipe", "1f1b", "interleaved", "zero_bubble", "zbv"}) {
    EXPECT_FALSE(schedule_named(name).name().empty());
  }
  EXPECT_EQ(schedule_named("1f1b").name(), "1F1B");
  expect_refusal(
      [] { static_cast<void>(schedule_named("1F1B")); },
      "no pipeline schedule '1F1B'; there are gpipe, 1f1b, interleaved, zero_bubble and zbv");
}

}  // namespace
}  // namespace lockstep::pipeline

// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/range.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <stdexcept>
#include <thread>

#include "multirank/profiler/profiler_test_support.h"
#include "support/forks.h"
#include "support/small_nets.h"
#include "support/timed_waits.h"
#include "training/profiler/request_file.h"

namespace lockstep::testing {
namespace {

using training::Profiler;
using training::ProfilerOptions;
using training::Range;
using training::TraceSpan;
using Names = std::vector<std::string>;

TEST_F(ProfilerTest, SavesOneFileARank) {
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(1).warmup(1).active(3).repeat(1));
    for (int step = 0; step < 8; ++step) {
      EXPECT_EQ(profiler.current_step(), step);
      EXPECT_EQ(profiler.is_recording(), step >= 2 && step < 5) << step;
      train_step();
      profiler.step();
    }
    EXPECT_EQ(profiler.last_trace(), trace(2));
  }
  const json found = read_json(trace(2));
  EXPECT_EQ(found.at("distributedInfo"), json({{"backend", to_string(group->backend())},
                                               {"rank", group->rank()},
                                               {"world_size", group->size()}}));
  EXPECT_EQ(found.at("traceName"), trace(2).string());
  EXPECT_EQ(names_of(events_of(found, "user_annotation")),
            (Names{"ProfilerStep#2", "ProfilerStep#3", "ProfilerStep#4"}));
  EXPECT_EQ(count(events_of(found, "cpu_op"), "aten::linear"), 3);
  EXPECT_TRUE(events_of(found, "cpu_instant_event").empty());  // allocations
  EXPECT_FALSE(events_of(found, "cpu_op").front().at("args").contains("Input Dims"));

  group->barrier();
  std::set<std::string> expected;
  for (int rank = 0; rank < group->size(); ++rank) {
    expected.insert("rank" + std::to_string(rank) + ".step2.json");
  }
  EXPECT_EQ(files(), expected);  // and nothing that was of use meanwhile
}

TEST_F(ProfilerTest, EachCycleHasAFile) {
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(1).active(1).repeat(2));
    for (int step = 0; step < 6; ++step) {
      train_step();
      profiler.step();
    }
  }
  for (const int step : {1, 3}) {
    EXPECT_EQ(names_of(events_of(read_json(trace(step)), "user_annotation")),
              Names{"ProfilerStep#" + std::to_string(step)});
  }
  group->barrier();
  EXPECT_EQ(files().size(), static_cast<std::size_t>(2 * group->size()));
}

TEST_F(ProfilerTest, WarmUpMayTakeSeveralSteps) {
  Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(3).active(1));
  for (int step = 0; step < 4; ++step) {
    EXPECT_EQ(profiler.is_recording(), step == 3) << step;
    train_step();
    profiler.step();
  }
  EXPECT_EQ(count(events_of(read_json(trace(3)), "cpu_op"), "aten::linear"), 1);
}

TEST_F(ProfilerTest, CyclesFollowEachOtherWithoutAPause) {
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(2).repeat(0));
    for (int step = 0; step < 4; ++step) {
      train_step();
      profiler.step();
    }
  }
  EXPECT_EQ(count(events_of(read_json(trace(0)), "cpu_op"), "aten::linear"), 2);
  EXPECT_EQ(count(events_of(read_json(trace(2)), "cpu_op"), "aten::linear"), 2);
  EXPECT_FALSE(std::filesystem::exists(trace(4)));  // that step had only begun
}

TEST_F(ProfilerTest, ShapesAndMemoryAreRecordedWhereAskedFor) {
  {
    Profiler profiler(group, folder,
                      ProfilerOptions().wait(0).warmup(0).active(1).shapes(true).memory(true));
    train_step();
    profiler.step();
  }
  const json found = read_json(trace(0));
  EXPECT_FALSE(events_of(found, "cpu_instant_event").empty());
  for (const auto& event : events_of(found, "cpu_op")) {
    if (event.at("name") != "aten::linear") continue;
    EXPECT_EQ(event.at("args").at("Input Dims").at(0), (json::array({5, 4})));
  }
}

TEST_F(ProfilerTest, RangesAreAnnotations) {
  const std::string odd = "part \"two\"\n\\ \u00e4";
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(1));
    {
      const Range range("part one");
      train_step();
      const Range inner(std::string_view("innermost").substr(0, 5));
    }
    const Range range(odd);
    train_step();
    profiler.stop();
  }
  const json found = read_json(trace(0));
  const auto annotations = events_of(found, "user_annotation");
  // The last one had not ended when the profiler did.
  ASSERT_EQ(annotations.size(), 4U);
  const Names names = names_of(annotations);
  EXPECT_EQ((Names{names.begin(), names.begin() + 3}),
            (Names{"ProfilerStep#0", "part one", "inner"}));
  EXPECT_EQ(annotations[3].at("args").at("finished"), false);
  const auto first = events_of(found, "cpu_op").front();
  EXPECT_GE(first.at("ts").get<double>(), annotations[1].at("ts").get<double>());
}

TEST_F(ProfilerTest, ARangeMayEndInTheNextRecording) {
  Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(1).repeat(2));
  std::vector<std::unique_ptr<Range>> ranges;
  for (int i = 0; i < 100; ++i) ranges.push_back(std::make_unique<Range>("long"));
  train_step();
  profiler.step();
  train_step();
  while (!ranges.empty()) ranges.pop_back();
  const Range range("short");
  train_step();
  profiler.step();
  EXPECT_EQ(count(events_of(read_json(trace(1)), "user_annotation"), "long"), 0);
  EXPECT_EQ(count(events_of(read_json(trace(1)), "user_annotation"), "short"), 1);
}

TEST_F(ProfilerTest, AnExceptionLeavesATraceAndTheNextProfilerWorks) {
  try {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(3));
    train_step();
    profiler.step();
    const Range range("it fails");
    train_step();
    throw std::runtime_error("the program's own");
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "the program's own");
  }
  EXPECT_EQ(count(events_of(read_json(trace(0)), "cpu_op"), "aten::linear"), 2);
  { const Profiler warming_up(group, folder, ProfilerOptions().wait(0).warmup(2)); }
  { const Profiler recording(group, folder, ProfilerOptions().wait(0).warmup(0).skip_first(1)); }
  std::filesystem::remove(trace(0));
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(1).active(1));
    profiler.step();
    train_step();
    profiler.step();
  }
  EXPECT_FALSE(std::filesystem::exists(trace(0)));
  EXPECT_EQ(count(events_of(read_json(trace(1)), "cpu_op"), "aten::linear"), 1);
}

TEST_F(ProfilerTest, ARequestIsAnsweredOutsideOfTheSchedule) {
  static Profiler* asked = nullptr;
  struct sigaction own {};
  own.sa_handler = [](int) { asked->request(); };
  struct sigaction before {};
  ::sigaction(SIGUSR2, &own, &before);
  {
    Profiler profiler(group, folder, ProfilerOptions().warmup(1).active(2).only_on_request(true));
    asked = &profiler;
    for (int step = 0; step < 12; ++step) {
      if (step == 3 || step == 8) ::raise(SIGUSR2);
      if (step == 5) profiler.request();  // the recording under way answers it
      EXPECT_EQ(profiler.is_recording(), step == 5 || step == 6 || step == 10 || step == 11)
          << step;
      train_step();
      profiler.step();
    }
  }
  ::sigaction(SIGUSR2, &before, nullptr);
  EXPECT_EQ(names_of(events_of(read_json(trace(5)), "user_annotation")),
            (Names{"ProfilerStep#5", "ProfilerStep#6"}));
  EXPECT_EQ(names_of(events_of(read_json(trace(10)), "user_annotation")),
            (Names{"ProfilerStep#10", "ProfilerStep#11"}));
}

TEST_F(ProfilerTest, StepsOfTheScheduleAnswerARequest) {
  Profiler profiler(group, folder, ProfilerOptions().wait(1).warmup(0).active(2).repeat(1));
  for (int step = 0; step < 10; ++step) {
    if (step == 1 || step == 5) profiler.request();
    EXPECT_EQ(profiler.is_recording(), step == 1 || step == 2 || step == 6 || step == 7) << step;
    train_step();
    profiler.step();
  }
  EXPECT_EQ(profiler.last_trace(), trace(6));
}

TEST_F(ProfilerTest, AFileThatIsTouchedIsARequest) {
  std::filesystem::create_directories(folder);
  const auto file = folder / ("profile.now");
  if (group->rank() == 0) std::ofstream(file) << "";
  group->barrier();
  Profiler profiler(group, folder, ProfilerOptions().warmup(0).active(1).only_on_request(true));
  group->barrier();
  const auto is_asked = [&] {
    train_step();
    profiler.step();
    return profiler.is_recording();
  };
  // The file that was there asks for nothing, however often it is looked at.
  std::this_thread::sleep_for(training::RequestFile::kInterval * 1.5);
  for (int step = 0; step < 3; ++step) EXPECT_FALSE(is_asked());
  group->barrier();
  if (group->rank() == 0) {
    std::filesystem::last_write_time(file, std::filesystem::file_time_type::clock::now());
  }
  EXPECT_TRUE(happens(is_asked));
  const auto first = static_cast<int>(profiler.current_step());
  train_step();
  profiler.step();
  EXPECT_FALSE(profiler.is_recording());
  EXPECT_EQ(profiler.last_trace(), trace(first));
  EXPECT_TRUE(std::filesystem::exists(trace(first)));
  EXPECT_TRUE(std::filesystem::exists(file));
}

TEST_F(ProfilerTest, AForkRecordsAndSavesNothing) {
  if (group->size() > 1) GTEST_SKIP() << "a fork of a rank under MPI";
  Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(1));
  train_step();
  run_in_fork([&] {
    profiler.step();
    profiler.stop();
    if (std::filesystem::exists(trace(0))) throw std::runtime_error("the fork has saved");
    auto* own = new Profiler(group, folder / "fork", ProfilerOptions().wait(1));
    delete own;
  });
  profiler.step();
  EXPECT_EQ(count(events_of(read_json(trace(0)), "cpu_op"), "aten::linear"), 1);
}

/// The spans of a row, in their order.
std::vector<json> row_of(const json& trace, const std::string& name) {
  std::vector<json> spans;
  for (const auto& event : trace.at("traceEvents")) {
    if (event.value("name", "") != "thread_name" || event.at("args").at("name") != name) continue;
    for (const auto& span : events_of(trace, "lockstep")) {
      if (span.at("tid") == event.at("tid")) spans.push_back(span);
    }
  }
  return spans;
}

double end_of(const json& span) {
  return span.at("ts").get<double>() + span.at("dur").get<double>();
}

class ProfilerDdpTest : public ProfilerTest {
 protected:
  /// Three steps of a wrapped model, of which the last two are recorded. Returns the trace.
  json train(std::size_t* buckets) {
    ConvNet net;
    fill_parameters(*net);
    DistributedDataParallel model(net, group,
                                  DistributedDataParallelOptions()
                                      .bucket_cap_bytes(256)
                                      .first_bucket_cap_bytes(64)
                                      .learn_order(false));
    Profiler profiler(group, folder, ProfilerOptions().wait(1).warmup(0).active(2));
    for (int step = 0; step < 3; ++step) {
      {
        const Range range("forward and backward");
        model->forward(make_input(step, 2)).square().mean().backward();
      }
      if (profiler.is_recording()) profiler.add(model->statistics(), "net");
      profiler.add(model->statistics(), "net");  // counts once
      net->zero_grad();
      *buckets = model->statistics().buckets.size();
      profiler.step();
    }
    return read_json(trace(1));
  }
};

TEST_F(ProfilerDdpTest, TheLastStepsAreSpans) {
  std::size_t buckets = 0;
  const json found = train(&buckets);
  if (group->size() == 1) {
    EXPECT_EQ(names_of(events_of(found, "lockstep")), (Names{"forward", "forward"}));
    return;
  }
  ASSERT_GT(buckets, 1U);
  const auto phases = row_of(found, "net");
  ASSERT_EQ(names_of(phases), (Names{"forward", "backward", "exposed communication", "forward",
                                     "backward", "exposed communication"}));
  const auto communication = row_of(found, "net communication");
  ASSERT_EQ(names_of(communication), (Names{"communication", "communication"}));
  // One clock: what follows each other in the program does so in the trace, to the nanosecond.
  // Microseconds with fractions as doubles are exact to a part of one.
  constexpr double kRounding = 0.01;
  for (std::size_t i = 1; i < phases.size(); ++i) {
    EXPECT_GE(phases[i].at("ts").get<double>(), end_of(phases[i - 1]) - kRounding) << i;
  }
  const auto spans = events_of(found, "lockstep");
  EXPECT_EQ(spans.size(), 6 + 2 + 2 * buckets);
  for (std::size_t step = 0; step < 2; ++step) {
    EXPECT_NEAR(end_of(communication[step]), end_of(phases[3 * step + 2]), kRounding);
    EXPECT_GE(communication[step].at("ts").get<double>(),
              phases[3 * step + 1].at("ts").get<double>() - kRounding);
  }
  std::set<double> launches;
  for (const auto& span : spans) {
    if (span.at("name").get<std::string>().rfind("bucket ", 0) != 0) continue;
    EXPECT_GT(span.at("args").at("bytes").get<int>(), 0);
    const std::size_t step = span.at("ts").get<double>() < phases[3].at("ts").get<double>() ? 0 : 1;
    EXPECT_GE(span.at("ts").get<double>(), communication[step].at("ts").get<double>() - kRounding);
    EXPECT_LE(end_of(span), end_of(communication[step]) + kRounding);
    EXPECT_GT(span.at("dur").get<double>(), 0);
    launches.insert(span.at("ts").get<double>());
  }
  EXPECT_EQ(launches.size(), 2 * buckets);  // each by itself
}

// The two clocks are compared within microseconds, unless the system takes the processor away.
TEST_F(ProfilerDdpTest, SpansAreWhereLibTorchHasThatTime) {
  std::size_t buckets = 0;
  const json found = train(&buckets);
  std::vector<json> steps;
  for (const auto& event : events_of(found, "user_annotation")) {
    if (event.at("name") == "forward and backward") steps.push_back(event);
  }
  ASSERT_EQ(steps.size(), 2U);
  constexpr double kSecond = 1e6;
  std::size_t forwards = 0;
  for (const auto& span : events_of(found, "lockstep")) {
    if (span.at("name") != "forward") continue;
    ASSERT_LT(forwards, 2U);
    const auto begin = [](const json& event) { return event.at("ts").get<double>(); };
    const auto end = [&](const json& event) {
      return begin(event) + event.at("dur").get<double>();
    };
    EXPECT_GE(begin(span), begin(steps[forwards]) - kSecond);
    EXPECT_LE(end(span), end(steps[forwards]) + kSecond);
    EXPECT_EQ(span.at("pid"), steps[forwards].at("pid"));
    ++forwards;
  }
  EXPECT_EQ(forwards, 2U);
}

TEST_F(ProfilerTest, SpansOfTheProgramAreShown) {
  const auto moment = [] { return TraceSpan::Clock::now(); };
  const auto early = moment();
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(1).active(1).repeat(2));
    profiler.add({"before", early, moment(), "loader", 0});
    train_step();
    profiler.step();
    profiler.add({"too early", early, early, "loader", 0});
    train_step();
    profiler.add({"load", early, moment(), "loader", 12});
    profiler.step();
    profiler.add({"after", early, moment(), "loader", 0});
    profiler.step();
    train_step();
    profiler.add({"load again", early, moment(), "loader", 0});
    profiler.step();
  }
  const auto spans = events_of(read_json(trace(1)), "lockstep");
  ASSERT_EQ(names_of(spans), Names{"load"});
  EXPECT_EQ(spans[0].at("args").at("bytes"), 12);
  EXPECT_EQ(names_of(events_of(read_json(trace(3)), "lockstep")), Names{"load again"});
}

}  // namespace
}  // namespace lockstep::testing

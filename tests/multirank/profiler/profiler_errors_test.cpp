// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/logging.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <thread>

#include "multirank/profiler/profiler_test_support.h"
#include "support/expected_errors.h"

namespace lockstep::testing {
namespace {

using training::Profiler;
using training::ProfilerOptions;

class ProfilerErrorsTest : public ProfilerTest {
 protected:
  /// What a destructor says.
  std::vector<std::string> lines;

  void SetUp() override {
    ProfilerTest::SetUp();
    set_log_sink([this](logging::Level, std::string_view text) { lines.emplace_back(text); });
  }
  void TearDown() override {
    set_log_sink({});
    ProfilerTest::TearDown();
  }
};

TEST_F(ProfilerErrorsTest, AFolderWithoutFilesIsRefusedAtOnce) {
  std::filesystem::create_directories(folder);
  const auto file = folder / ("file" + std::to_string(group->rank()));
  std::ofstream(file) << "no folder";
  for (const auto& wrong : {file, file / "below", std::filesystem::path("/proc/lockstep")}) {
    expect_refusal([&] { Profiler(group, wrong); },
                   "Profiler: traces cannot be written to '" + wrong.string() + "': ");
  }
  // /proc takes no files, though the folder is there.
  expect_refusal([&] { Profiler(group, "/proc"); }, "no file can be made in /proc");
  expect_refusal([&] { Profiler(nullptr, folder); }, "the process group is null");
  // None of them is left over as the profiler of this process.
  EXPECT_NO_THROW(Profiler(group, folder));
}

TEST_F(ProfilerErrorsTest, OptionsOutOfRangeAreRefused) {
  for (const auto& options :
       {ProfilerOptions().wait(-1), ProfilerOptions().warmup(-1), ProfilerOptions().active(0),
        ProfilerOptions().repeat(-1), ProfilerOptions().skip_first(-1),
        ProfilerOptions().only_on_request(true).active(-2)}) {
    expect_refusal([&] { Profiler(group, folder, options); },
                   "active is 1 or more, and the others are 0 or more");
  }
  expect_refusal([&] { static_cast<void>(scheduled_action(ProfilerOptions(), -1)); },
                 "steps count from 0");
}

TEST_F(ProfilerErrorsTest, AProcessHasOneProfiler) {
  Profiler first(group, folder);
  expect_refusal([&] { Profiler(group, folder); },
                 "this process has a lockstep::training::Profiler already");
  std::thread([&] {
    expect_refusal([&] { Profiler(group, folder); },
                   "this process has a lockstep::training::Profiler already");
  }).join();
}

TEST_F(ProfilerErrorsTest, AnotherProfilerOfLibTorchIsSeen) {
  namespace other = torch::autograd::profiler;
  const other::ProfilerConfig config(other::ProfilerState::KINETO);
  const std::set<other::ActivityType> activities{other::ActivityType::CPU};
  other::prepareProfiler(config, activities);
  other::enableProfiler(config, activities);
  const std::string text = "another profiler of LibTorch runs in this process";
  expect_refusal([&] { Profiler(group, folder, ProfilerOptions().wait(0)); }, text);
  expect_refusal([&] { Profiler(group, folder, ProfilerOptions().wait(0).warmup(0)); }, text);
  std::thread([&] {
    expect_refusal([&] { Profiler(group, folder, ProfilerOptions().wait(0)); }, text);
  }).join();
  {
    Profiler profiler(group, folder, ProfilerOptions().wait(1).warmup(1).active(1));
    expect_refusal([&] { profiler.step(); }, text);
    train_step();
    other::disableProfiler();
    profiler.step();  // the schedule goes on
    EXPECT_TRUE(profiler.is_recording());
    train_step();
    profiler.step();
  }
  EXPECT_TRUE(std::filesystem::exists(trace(2)));
  EXPECT_EQ(lines, std::vector<std::string>());
}

TEST_F(ProfilerErrorsTest, StepsWithoutOperatorsAreAnError) {
  Profiler profiler(group, folder, ProfilerOptions().wait(0).warmup(0).active(2).repeat(2));
  profiler.step();
  std::thread([&] { train_step(); }).join();  // not of this thread
  expect_refusal([&] { profiler.step(); }, "no operator ran during steps 0 to 1 in the thread");
  EXPECT_FALSE(profiler.last_trace().has_value());
  EXPECT_FALSE(std::filesystem::exists(trace(0)));
  train_step();
  profiler.step();  // the rest of the next cycle
  train_step();
  profiler.step();
  EXPECT_TRUE(profiler.last_trace().has_value());
}

TEST_F(ProfilerErrorsTest, AFolderThatIsGoneCostsOneTrace) {
  const auto own = folder / ("rank" + std::to_string(group->rank()));
  Profiler profiler(group, own, ProfilerOptions().wait(0).warmup(0).active(1).repeat(0));
  std::filesystem::remove_all(own);
  train_step();
  expect_refusal([&] { profiler.step(); },
                 "the trace of steps 0 to 0 cannot be written to '" + own.string() + "'");
  std::filesystem::create_directories(own);
  profiler.step();
  train_step();
  profiler.step();
  EXPECT_EQ(profiler.last_trace(), own / trace(2).filename());
  EXPECT_TRUE(std::filesystem::exists(own / trace(2).filename()));
}

TEST_F(ProfilerErrorsTest, TheDestructorLogsAndDoesNotThrow) {
  const auto own = folder / ("rank" + std::to_string(group->rank()));
  {
    const Profiler profiler(group, own, ProfilerOptions().wait(0).warmup(0).active(1));
    std::filesystem::remove_all(own);
    train_step();
  }
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("the trace of steps 0 to 0 cannot be written to"), std::string::npos);
  lines.clear();
  { const Profiler idle(group, own, ProfilerOptions().wait(0).warmup(0)); }
  EXPECT_TRUE(lines.empty());  // a step that has only begun
}

TEST_F(ProfilerErrorsTest, AnotherThreadIsRefused) {
  auto profiler =
      std::make_unique<Profiler>(group, folder, ProfilerOptions().wait(0).warmup(0).active(2));
  std::thread([&] {
    expect_refusal([&] { profiler->step(); }, "step in another thread than the one that made");
    expect_refusal([&] { profiler->stop(); }, "stop in another thread than the one that made");
    profiler->request();
  }).join();
  EXPECT_TRUE(profiler->is_recording());
  train_step();
  profiler->step();
  profiler->stop();
  profiler->stop();
  EXPECT_FALSE(profiler->is_recording());
  profiler->step();
  EXPECT_EQ(profiler->current_step(), 1);
  EXPECT_TRUE(std::filesystem::exists(trace(0)));
}

TEST_F(ProfilerErrorsTest, ASpanThatEndsBeforeItBeginsIsRefused) {
  Profiler profiler(group, folder);
  const auto now = training::TraceSpan::Clock::now();
  expect_refusal(
      [&] {
        profiler.add({"late", now, now - std::chrono::seconds(1), "row", 0});
      },
      "span 'late' ends 1 s before it begins");
}

}  // namespace
}  // namespace lockstep::testing

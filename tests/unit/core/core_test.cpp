// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/device.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <lockstep/core/version.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "concurrency/deadline.h"

namespace lockstep {
namespace {

TEST(CommError, SaysWhatWhereAndWhoInOneLine) {
  const TimeoutError error({"SharedMemory", "all_reduce", 3, 8, 17}, "rank 5 has not arrived",
                           "look there");
  EXPECT_STREQ(error.what(),
               "all_reduce #17 (SharedMemory) failed on rank 3 of 8: rank 5 has not arrived. "
               "Hint: look there");
  EXPECT_EQ(error.op(), "all_reduce");
  EXPECT_EQ(error.backend(), "SharedMemory");
  EXPECT_EQ(error.rank(), 3);
  EXPECT_EQ(error.world_size(), 8);
  EXPECT_EQ(error.sequence(), 17U);
  EXPECT_THROW(throw error, c10::DistError);  // what users of LibTorch's own groups catch
}

TEST(Version, IsThatOfThePackage) {
  EXPECT_EQ(version(), LOCKSTEP_PROJECT_VERSION);
  const auto part = [](int hundreds) { return std::to_string(LOCKSTEP_VERSION / hundreds % 100); };
  EXPECT_EQ(part(10000) + "." + part(100) + "." + part(1), LOCKSTEP_PROJECT_VERSION);
}

TEST(Logging, GoesToTheSinkFromItsLevelOn) {
  std::vector<std::string> lines;
  set_log_sink([&](logging::Level, std::string_view line) { lines.emplace_back(line); });
  logging::set_level(logging::Level::Warning);
  logging::info("quiet");
  logging::warning("loud");
  logging::set_level(logging::Level::Debug);
  logging::debug("whisper");
  logging::set_level(logging::Level::Off);
  logging::error("nothing");
  logging::set_level(logging::Level::Warning);
  set_log_sink(nullptr);
  EXPECT_EQ(lines, (std::vector<std::string>{"loud", "whisper"}));
}

TEST(Logging, TheSinkBeforeMayLogWhileItEnds) {
  struct LogsAtItsEnd {
    ~LogsAtItsEnd() { logging::warning("at its end"); }
  };
  std::string said;
  set_log_sink([kept = std::make_shared<LogsAtItsEnd>()](logging::Level, std::string_view) {});
  set_log_sink([&](logging::Level, std::string_view line) { said = line; });
  set_log_sink({});
  EXPECT_EQ(said, "at its end");
}

TEST(Logging, WritesToStderrWhateverTheLevel) {
  ::testing::internal::CaptureStderr();
  logging::write_to_stderr(logging::Level::Debug, "text");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "lockstep debug: text\n");
}

TEST(BindDevice, IsTheCpuWhereThereIsNoGpu) {
  const auto device = bind_device(0);
  EXPECT_TRUE(device.is_cpu() || device.is_cuda());
  EXPECT_THROW(static_cast<void>(bind_device(-1)), c10::Error);
}

TEST(Deadline, NeverWrapsAround) {
  EXPECT_FALSE(Deadline::after(std::chrono::nanoseconds::max()).has_passed());
  EXPECT_FALSE(Deadline::after(std::chrono::milliseconds::max()).has_passed());
  EXPECT_FALSE(Deadline::after(std::chrono::hours(1)).has_passed());
  EXPECT_TRUE(Deadline::after(std::chrono::nanoseconds(0)).has_passed());
  EXPECT_EQ(Deadline::after(std::chrono::nanoseconds(0)).remaining().count(), 0);
}

}  // namespace
}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/spool.h"

#include <gtest/gtest.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "support/expected_errors.h"
#include "support/failing_file_system.h"
#include "support/forks.h"
#include "support/free_port.h"
#include "support/log_servers.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"

namespace lockstep::training {
namespace {

using logging::Level;
using std::chrono::milliseconds;
using testing::expect_refusal;
using testing::FailingFileSystem;
using testing::happens;
using testing::kTestPatience;

native::FileSystem& machine() {
  return native::FileSystem::of_machine();
}

LogRecord record(int number, std::string text = "text") {
  return {number, Level::Info, false, std::move(text)};
}

/// The numbers of all records, which are taken away.
std::vector<std::int64_t> take_all(Spool& spool, std::size_t at_once = 3) {
  std::vector<std::int64_t> numbers;
  while (!spool.is_empty()) {
    const auto front = spool.front(at_once);
    if (front.empty()) break;
    const auto popped = spool.pop(front.size());
    for (std::size_t i = 0; i < popped; ++i) numbers.push_back(front[i].nanoseconds);
  }
  return numbers;
}

std::vector<std::int64_t> up_to(std::int64_t end, std::int64_t begin = 0) {
  std::vector<std::int64_t> numbers;
  for (std::int64_t i = begin; i < end; ++i) numbers.push_back(i);
  return numbers;
}

TEST(Spool, KeepsTheOrderInMemory) {
  Spool spool({}, machine());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(spool.push(record(i)));
  EXPECT_EQ(take_all(spool), up_to(10));
}

TEST(Spool, KeepsTheOrderOverFileAndMemory) {
  const TemporaryFolder folder;
  Spool spool(SpoolOptions().file(folder / "spool"), machine());
  for (int i = 0; i < 30; ++i) {
    ASSERT_TRUE(spool.push(record(i, std::string(1000, 'a'))));
    if (i != 9 && i != 19) continue;
    ASSERT_TRUE(spool.save());
  }
  EXPECT_EQ(take_all(spool), up_to(30));
  EXPECT_EQ(std::filesystem::file_size(folder / "spool"), 0U);
}

TEST(Spool, TheNextRunHasAllOfARecord) {
  const TemporaryFolder folder;
  const std::string hard = std::string("a\nb\\n\\ \x01\xFF=") + '\0' + "\n";
  {
    Spool spool(SpoolOptions().file(folder / "spool"), machine());
    ASSERT_TRUE(spool.push({1, Level::Debug, false, hard}));
    ASSERT_TRUE(spool.push({2, Level::Error, true, ""}));
    ASSERT_TRUE(spool.save());
  }
  Spool spool(SpoolOptions().file(folder / "spool"), machine());
  EXPECT_EQ(spool.restored(), 2U);
  EXPECT_EQ(spool.torn(), 0U);
  const auto front = spool.front(10);
  ASSERT_EQ(front.size(), 2U);
  EXPECT_EQ(front[0].nanoseconds, 1);
  EXPECT_EQ(front[0].level, Level::Debug);
  EXPECT_FALSE(front[0].is_note);
  EXPECT_EQ(front[0].text, hard);
  EXPECT_EQ(front[1].level, Level::Error);
  EXPECT_TRUE(front[1].is_note);
  EXPECT_EQ(front[1].text, "");
}

TEST(Spool, WhatWasSentIsNotSentByTheNextRun) {
  const TemporaryFolder folder;
  {
    Spool spool(SpoolOptions().file(folder / "spool"), machine());
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(spool.push(record(i)));
    ASSERT_TRUE(spool.save());
    EXPECT_EQ(spool.front(4).size(), 4U);
    spool.pop(4);
    for (int i = 10; i < 12; ++i) ASSERT_TRUE(spool.push(record(i)));
    ASSERT_TRUE(spool.save());
    spool.pop(1);
  }
  Spool spool(SpoolOptions().file(folder / "spool"), machine());
  EXPECT_EQ(spool.restored(), 7U);
  EXPECT_EQ(take_all(spool), up_to(12, 5));
}

TEST(Spool, RecordsThatMoveToTheFileWhileTheyAreSentGoOnce) {
  const TemporaryFolder folder;
  Spool spool(SpoolOptions().file(folder / "spool").file_bytes(100), machine());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(spool.push(record(i)));
  EXPECT_EQ(spool.front(8).size(), 8U);
  EXPECT_FALSE(spool.save());  // some of them fit
  spool.pop(8);
  EXPECT_EQ(take_all(spool), up_to(10, 8));
}

TEST(Spool, HasBoundsInMemoryAndInTheFile) {
  const TemporaryFolder folder;
  constexpr std::int64_t kFileBytes = 10'000;
  Spool spool(SpoolOptions().memory_bytes(2000).file(folder / "spool").file_bytes(kFileBytes),
              machine());
  int taken = 0;
  while (spool.push(record(taken, std::string(100, 'a')))) {
    ASSERT_LT(++taken, 1000);
  }
  EXPECT_GT(taken, 80);
  EXPECT_LT(taken, 120);
  const auto size = std::filesystem::file_size(folder / "spool");
  EXPECT_LE(size, static_cast<std::uintmax_t>(kFileBytes));
  EXPECT_GT(size, static_cast<std::uintmax_t>(kFileBytes - 200));
  EXPECT_NE(spool.failure().find("is full"), std::string::npos);
  EXPECT_EQ(take_all(spool), up_to(taken));
  EXPECT_TRUE(spool.push(record(0)));
}

TEST(Spool, ATornLineIsCountedWhereverItWasCut) {
  const TemporaryFolder folder;
  {
    Spool spool(SpoolOptions().file(folder / "spool"), machine());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(spool.push(record(i)));
    ASSERT_TRUE(spool.save());
  }
  const std::string whole = read_bytes(folder / "spool");
  for (std::size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    write_bytes(folder / "cut", whole.substr(0, bytes));
    Spool spool(SpoolOptions().file(folder / "cut"), machine());
    const auto begin = whole.find('\n') + 1;
    const auto records = bytes < begin
                             ? 0
                             : std::count(whole.begin() + static_cast<std::ptrdiff_t>(begin),
                                          whole.begin() + static_cast<std::ptrdiff_t>(bytes), '\n');
    EXPECT_EQ(spool.restored(), static_cast<std::uint64_t>(records)) << bytes;
    const bool is_torn = bytes > begin && whole[bytes - 1] != '\n';
    EXPECT_EQ(spool.torn(), is_torn ? 1U : 0U) << bytes;
    ASSERT_TRUE(spool.push(record(100)));
    ASSERT_TRUE(spool.save());
    auto expected = up_to(records);
    expected.push_back(100);
    EXPECT_EQ(take_all(spool), expected) << bytes;
  }
}

TEST(Spool, RefusesOtherFiles) {
  const TemporaryFolder folder;
  const auto open = [&](const char* name) {
    const Spool spool(SpoolOptions().file(folder / name), machine());
  };
  write_bytes(folder / "other", "something else\n");
  expect_refusal([&] { open("other"); }, "is no spool of log lines");
  EXPECT_EQ(read_bytes(folder / "other"), "something else\n");
  expect_refusal([&] { open("none/spool"); }, "cannot be opened");
  std::filesystem::create_directory(folder / "folder");
  expect_refusal([&] { open("folder"); }, "cannot be opened");
  const Spool first(SpoolOptions().file(folder / "spool"), machine());
  expect_refusal([&] { open("spool"); }, "another process, or another sink, uses this spool");
  expect_refusal([&] { const Spool spool(SpoolOptions().file_bytes(0), machine()); },
                 "file_bytes is 0");
}

TEST(Spool, ReadsAnyBytes) {
  const TemporaryFolder folder;
  const std::string first = "lockstep spool 1\n";
  for (const char* text :
       {"\n\n\n", "=\n", "=99999999999999999999\n", "=5\n", "x\n", "1 9 a\n", "1 0\n", "1 0 \n",
        "99999999999999999999 0 a\n", "-1 z a\n", "1 0 \\\n"}) {
    write_bytes(folder / "spool", first + text + "7 1 good\n");
    Spool spool(SpoolOptions().file(folder / "spool"), machine());
    const auto numbers = take_all(spool);
    ASSERT_FALSE(numbers.empty()) << text;
    EXPECT_EQ(numbers.back(), 7) << text;
  }
}

TEST(Spool, AReadThatFailsAtTheBeginCutsNothingAway) {
  for (const int error : {EIO, EINTR, 0}) {
    bool has_failed = true;
    for (int call = 0; has_failed; ++call) {
      const TemporaryFolder folder;
      {
        Spool spool(SpoolOptions().file(folder / "spool"), machine());
        for (int i = 0; i < 5; ++i) ASSERT_TRUE(spool.push(record(i)));
        ASSERT_TRUE(spool.save());
      }
      FailingFileSystem files(call, error);
      std::vector<std::int64_t> found;
      try {
        Spool spool(SpoolOptions().file(folder / "spool"), files);
        const auto front = spool.front(2);
        const auto popped = spool.pop(front.size());
        for (std::size_t i = 0; i < popped; ++i) found.push_back(front[i].nanoseconds);
      } catch (const c10::Error&) {
        // It says so.
      }
      has_failed = files.has_failed();
      Spool spool(SpoolOptions().file(folder / "spool"), machine());
      for (const auto number : take_all(spool)) found.push_back(number);
      std::sort(found.begin(), found.end());
      found.erase(std::unique(found.begin(), found.end()), found.end());
      EXPECT_EQ(found, up_to(5)) << "error " << error << " of call " << call;
    }
  }
}

TEST(Spool, AFileThatSomebodyCutsIsLeftBehind) {
  const TemporaryFolder folder;
  Spool spool(SpoolOptions().file(folder / "spool"), machine());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(spool.push(record(i)));
  ASSERT_TRUE(spool.save());
  std::filesystem::resize_file(folder / "spool", 0);
  ASSERT_TRUE(spool.push(record(5)));
  EXPECT_EQ(take_all(spool), up_to(6, 5));
  EXPECT_EQ(spool.take_cut(), 5U);
  EXPECT_EQ(spool.take_cut(), 0U);
  ASSERT_TRUE(spool.push(record(6)));
  ASSERT_TRUE(spool.save());
  EXPECT_EQ(take_all(spool), up_to(7, 6));
}

TEST(Spool, ABatchHasSoManyBytesAtMost) {
  const TemporaryFolder folder;
  Spool spool(SpoolOptions().file(folder / "spool"), machine());
  for (const bool is_saved : {false, true}) {
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(spool.push(record(i, std::string(100, 'a'))));
    if (is_saved) {
      ASSERT_TRUE(spool.save());
    }
    EXPECT_EQ(spool.front(10, 50).size(), 1U);  // one is always taken
    EXPECT_EQ(spool.front(10, 250).size(), 2U);
    EXPECT_EQ(spool.front(10, 400).size(), 4U);
    EXPECT_EQ(take_all(spool), up_to(4));
  }
}

TEST(Spool, NoFailingCallLosesARecord) {
  for (const int error : {ENOSPC, EIO, EINTR, 0}) {
    bool has_failed = true;
    for (int call = 0; has_failed; ++call) {
      const TemporaryFolder folder;
      FailingFileSystem files(call, error);
      std::vector<std::int64_t> found;
      try {
        Spool spool(SpoolOptions().file(folder / "spool"), files);
        for (int i = 0; i < 6; ++i) ASSERT_TRUE(spool.push(record(i)));
        static_cast<void>(spool.save());
        const auto front = spool.front(2);
        for (const auto& one : front) found.push_back(one.nanoseconds);
        // Those that are not popped come again, and are counted then.
        const auto popped = spool.pop(front.size());
        for (int i = 6; i < 8; ++i) ASSERT_TRUE(spool.push(record(i)));
        static_cast<void>(spool.save());
        const auto rest = take_all(spool);
        if (spool.is_empty()) {
          EXPECT_EQ(popped + rest.size(), 8U) << "error " << error << " of call " << call;
        }
        for (const auto number : rest) found.push_back(number);
        // The file could not be read: once more.
        for (const auto number : take_all(spool)) found.push_back(number);
      } catch (const c10::Error&) {
        has_failed = files.has_failed();
        continue;  // the constructor said so
      }
      has_failed = files.has_failed();
      std::sort(found.begin(), found.end());
      found.erase(std::unique(found.begin(), found.end()), found.end());
      EXPECT_EQ(found, up_to(8)) << "error " << error << " of call " << call;
    }
  }
}

OtlpOptions with_spool(const std::filesystem::path& file, std::uint16_t port) {
  return OtlpOptions()
      .endpoint("http://127.0.0.1:" + std::to_string(port))
      .spool(SpoolOptions().file(file));
}

TEST(SpoolOfASink, LinesOfARunWithoutAServerAreSentByTheNext) {
  const TemporaryFolder folder;
  const auto port = testing::free_port();
  {
    const auto writer = std::make_shared<BackgroundWriter>();
    const auto sink = otlp_log(writer, with_spool(folder / "spool", port));
    for (int i = 0; i < 100; ++i) sink(Level::Info, "line " + std::to_string(i));
  }
  testing::HttpServer server({testing::HttpServer::Answer()}, port);
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto sink = otlp_log(writer, with_spool(folder / "spool", port));
  sink(Level::Info, "line 100");
  ASSERT_TRUE(writer->flush(kTestPatience));
  std::string all;
  for (const auto& request : server.requests.all()) all += request.body;
  std::size_t at = 0;
  for (int i = 0; i <= 100; ++i) {
    at = all.find("\"line " + std::to_string(i) + "\"", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
  EXPECT_EQ(writer->statistics().lines, 101U);
  EXPECT_EQ(writer->statistics().lines_written, 101U);
  EXPECT_EQ(std::filesystem::file_size(folder / "spool"), 0U);
}

TEST(SpoolOfASink, ARunWithANoteOfTheRunBeforeIsFlushed) {
  const TemporaryFolder folder;
  {
    Spool spool(SpoolOptions().file(folder / "spool"), machine());
    ASSERT_TRUE(spool.push({1, Level::Warning, true, "3 lines were lost here: no room"}));
    ASSERT_TRUE(spool.push(record(2)));
    ASSERT_TRUE(spool.save());
  }
  testing::HttpServer server({testing::HttpServer::Answer()});
  const auto writer = std::make_shared<BackgroundWriter>();
  const auto sink = otlp_log(writer, with_spool(folder / "spool", server.port()));
  sink(Level::Info, "line");
  EXPECT_TRUE(writer->flush(std::chrono::seconds(20)));
  EXPECT_EQ(writer->statistics().lines, 2U);
  EXPECT_EQ(writer->statistics().lines_written, 2U);
}

TEST(SpoolOfASink, AKilledProcessLeavesItsLinesInTheFile) {
  const TemporaryFolder folder;
  const auto port = testing::free_port();
  const pid_t child = ::fork();
  if (child == 0) {
    testing::limit_child();
    const auto writer = std::make_shared<BackgroundWriter>();
    const auto sink = otlp_log(writer, with_spool(folder / "spool", port));
    for (int i = 0; i < 100; ++i) sink(Level::Info, "line " + std::to_string(i));
    while (true) ::pause();
  }
  const bool is_there =
      happens([&] { return read_bytes(folder / "spool").find("line 99\n") != std::string::npos; });
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(is_there);
  const Spool spool(SpoolOptions().file(folder / "spool"), machine());
  EXPECT_EQ(spool.restored(), 100U);
}

}  // namespace
}  // namespace lockstep::training

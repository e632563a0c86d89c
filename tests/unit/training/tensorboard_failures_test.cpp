// SPDX-License-Identifier: BSD-3-Clause
// Boards whose disk fails, and processes that are killed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/tensorboard.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <future>
#include <thread>

#include "support/event_files.h"
#include "support/expected_errors.h"
#include "support/failing_file_system.h"
#include "support/forks.h"
#include "support/raw_safetensors.h"
#include "training/background/writer_access.h"
#include "training/tensorboard/event_file.h"

namespace lockstep::training {
namespace {

using testing::event_files_in;
using testing::expect_refusal;
using testing::values_of;

/// A disk that is full when the test says so, and takes a few bytes at a time when it says so.
class FickleDisk final : public native::FileSystem {
 public:
  std::atomic<int> write_error{0};
  std::atomic<int> sync_error{0};
  std::atomic<std::size_t> most_bytes{std::size_t{1} << 30};
  /// So many bytes fit.
  std::atomic<std::int64_t> room{std::int64_t{1} << 60};
  /// A write waits as long as the test says so.
  std::atomic<bool> is_held{false};
  std::atomic<bool> is_waiting{false};

  ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
    while (is_held) {
      is_waiting = true;
      std::this_thread::yield();
    }
    is_waiting = false;
    if (write_error.load() != 0) return failed(write_error);
    const std::int64_t left = room.load();
    if (left <= 0) return failed(ENOSPC);
    const std::size_t count =
        std::min({bytes.size(), most_bytes.load(), static_cast<std::size_t>(left)});
    const ssize_t done = FileSystem::write(file, bytes.first(count), offset);
    if (done > 0) room -= done;
    return done;
  }
  int sync(int file) override {
    struct stat info {};
    const bool is_file = FileSystem::examine(file, info) == 0 && S_ISREG(info.st_mode);
    return is_file && sync_error.load() != 0 ? static_cast<int>(failed(sync_error))
                                             : FileSystem::sync(file);
  }

 private:
  static ssize_t failed(int error) {
    errno = error;
    return -1;
  }
};

class BoardFailures : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path run() const { return folder_ / "run"; }
  [[nodiscard]] TensorBoardOptions options(std::int64_t kept_bytes = 4 << 20) {
    return TensorBoardOptions().writer(
        WriterAccess::make(BackgroundWriterOptions().kept_bytes(kept_bytes), disk_));
  }

  TemporaryFolder folder_;
  FickleDisk disk_;
};

// The thread is at another board while the record and the close come, and has looked at the queue
// before.
TEST_F(BoardFailures, ARecordThatComesJustBeforeTheCloseIsWritten) {
  const auto options_of_both = options();
  TensorBoard other(folder_ / "other", options_of_both);
  for (int i = 0; i < 20; ++i) {
    TensorBoard closed(run(), options_of_both);
    disk_.is_held = true;
    other.scalar("a", i, i);
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!disk_.is_waiting) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit) << "the other board is not written";
      std::this_thread::yield();
    }
    closed.scalar("a", 1, 7);
    auto closing = std::async(std::launch::async, [&] { closed.close(); });
    // The thread goes on once the board says that it is closed, at the earliest.
    while (true) {
      try {
        closed.text("", "", 0);
      } catch (const c10::Error& error) {
        if (std::string(error.what()).find("the board is closed") != std::string::npos) break;
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // and has asked for its file's end
    disk_.is_held = false;
    EXPECT_NO_THROW(closing.get());
    ASSERT_EQ(values_of(closed.file()).size(), 1U);
  }
}

// Records are written while the last one is taken, since there is no room for both.
TEST_F(BoardFailures, ACloseWritesMoreThanIsKept) {
  {
    TensorBoard board(run(), options(/*kept_bytes=*/1));
    for (int i = 0; i < 3; ++i) board.scalar("a", i, i);
    board.close();
    EXPECT_EQ(values_of(board.file()).size(), 3U);
  }
  TensorBoard board(run(), options());
  const std::string text(3 << 20, 'x');
  for (int i = 0; i < 3; ++i) board.text("a", text, i);
  board.close();
  EXPECT_EQ(values_of(board.file()).size(), 3U);
}

TEST_F(BoardFailures, TheFileIsWholeThoughTheDiskTakesAFewBytesAtATime) {
  disk_.most_bytes = 5;
  TensorBoard board(run(), options());
  for (int i = 0; i < 200; ++i) board.scalar("a", i, i);
  board.close();
  const auto found = values_of(board.file());
  ASSERT_EQ(found.size(), 200U);
  EXPECT_EQ(found.back().step, 199);
}

TEST_F(BoardFailures, ADiskThatIsFullForAWhileLosesNothing) {
  TensorBoard board(run(), options());
  board.scalar("a", 0, 0);
  board.flush();
  disk_.room = 20;  // a part of a record
  for (int i = 1; i < 100; ++i) board.scalar("a", i, i);
  for (int i = 0; i < 2; ++i) {
    expect_refusal([&] { board.flush(); },
                   "cannot be written: No space left on device; what waits is");
  }
  expect_refusal([&] { board.flush(); }, board.file().string());
  board.scalar("a", 100, 100);  // training goes on
  disk_.room = std::int64_t{1} << 60;
  board.flush();
  const auto found = values_of(board.file());
  ASSERT_EQ(found.size(), 101U);
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(found[i].step, static_cast<std::int64_t>(i));
  board.close();
}

TEST_F(BoardFailures, WhatIsLostIsCountedOnce) {
  TensorBoard board(run(), options(/*kept_bytes=*/1000));
  disk_.write_error = EIO;
  for (int i = 0; i < 1000; ++i) board.scalar("a", i, i);
  expect_refusal([&] { board.flush(); },
                 "records were lost: cannot be written: Input/output error");
  expect_refusal([&] { board.flush(); }, "what waits is tried again");
  disk_.write_error = 0;
  board.flush();
  const auto found = values_of(board.file());
  EXPECT_GT(found.size(), 5U);
  EXPECT_LT(found.size(), 100U);
  // The begin of what went wrong stays.
  for (std::size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(found[i].step, static_cast<std::int64_t>(i));
  board.close();
}

TEST_F(BoardFailures, CloseLosesWhatCannotBeWrittenAndSaysSo) {
  TensorBoard board(run(), options());
  board.scalar("a", 0, 0);
  board.flush();
  disk_.room = 30;
  for (int i = 1; i < 10; ++i) board.scalar("a", i, i);
  expect_refusal([&] { board.close(); }, "9 records were lost: cannot be written: No space left");
  board.close();
  bool is_cut = false;
  EXPECT_EQ(values_of(board.file(), &is_cut).size(), 1U);
  EXPECT_TRUE(is_cut);
}

TEST_F(BoardFailures, ADestructorLogsWhatIsLost) {
  std::string logged;
  set_log_sink([&](logging::Level, std::string_view text) { logged += text; });
  ::testing::internal::CaptureStderr();
  {
    TensorBoard board(run(), options());
    disk_.write_error = ENOSPC;
    board.scalar("a", 0, 0);
  }
  set_log_sink({});
  EXPECT_NE(logged.find("1 record was lost: cannot be written: No space left"), std::string::npos)
      << logged;
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");  // it is said once
}

TEST_F(BoardFailures, ADiskThatFailsToSyncIsAnErrorOfClose) {
  TensorBoard board(run(), options());
  board.scalar("a", 0, 0);
  disk_.sync_error = EIO;
  board.flush();
  expect_refusal([&] { board.close(); }, "cannot be written to the disk: Input/output error");
}

TEST_F(BoardFailures, AFileThatWasRemovedIsAnError) {
  TensorBoard board(run(), options());
  board.scalar("a", 0, 0);
  board.flush();
  std::filesystem::remove_all(run());
  board.scalar("a", 1, 1);
  expect_refusal([&] { board.flush(); }, "cannot be written, because it was removed");
  expect_refusal([&] { board.close(); },
                 "1 record was lost: cannot be written, because it was removed");
}

TEST_F(BoardFailures, TooMuchThatWaitsIsLost) {
  TensorBoard board(run(), options().waiting_bytes(100000));
  disk_.write_error = ENOSPC;
  // The kept ones are full with the first; the thread takes the others from where they wait.
  for (int i = 0; i < 20; ++i) board.text("a", std::string(5 << 20, 'x'), i);
  expect_refusal([&] { board.flush(); }, "records were lost: ");
  disk_.write_error = 0;
  board.flush();
  EXPECT_EQ(values_of(board.file()).size(), 1U);
}

TEST(EventFileState, HasABoundForWhatWaits) {
  EventFileState state(10000);
  const auto park = [&](std::size_t bytes) {
    ParkedRecord record;
    record.bytes.assign(bytes, 'x');
    return state.park(record);
  };
  for (int round = 0; round < 3; ++round) {
    const auto alone = park(20000);
    ASSERT_TRUE(alone);
    EXPECT_FALSE(park(1));
    EXPECT_EQ(state.take(*alone)->bytes.size(), 20000U);
    EXPECT_FALSE(state.take(*alone));
    const auto first = park(4000);
    const auto second = park(4000);
    ASSERT_TRUE(first && second);
    EXPECT_FALSE(park(4000));
    EXPECT_TRUE(state.take(*second));
    EXPECT_TRUE(state.take(*first));
  }
}

TEST_F(BoardFailures, EveryCallToTheDiskMayFailAtTheBegin) {
  for (int call = 0;; ++call) {
    testing::FailingFileSystem files(call, EACCES);
    const TensorBoardOptions failing =
        TensorBoardOptions().writer(WriterAccess::make(BackgroundWriterOptions(), files));
    const auto folder = folder_ / std::to_string(call);
    try {
      TensorBoard board(folder, failing);
      board.close();
      if (!files.has_failed()) break;
    } catch (const c10::Error& error) {
      const std::string text = error.what_without_backtrace();
      EXPECT_NE(text.find("Permission denied"), std::string::npos) << text;
      EXPECT_NE(text.find(folder_.path().string()), std::string::npos) << text;
    }
    ASSERT_LT(call, 100);
  }
}

/// A run in a child that says after each step what is safe, until it is killed.
void run_until_killed(const std::filesystem::path& folder, std::int64_t first, int said) {
  TensorBoardOptions options;
  if (first > 0) options.resume_at(first);
  TensorBoard board(folder, options);
  for (std::int64_t step = first;; ++step) {
    for (int i = 0; i < 50; ++i) board.scalar("a", static_cast<double>(step), step);
    board.text("t", std::string(40000, 'x'), step);
    board.flush();
    if (::write(said, &step, sizeof(step)) != sizeof(step)) ::_exit(3);
  }
}

/// Returns the last step that the run was sure of.
std::int64_t kill_run(const std::filesystem::path& folder, std::int64_t first, std::int64_t steps) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    testing::limit_child();
    try {
      run_until_killed(folder, first, ends[1]);
    } catch (...) {
      ::_exit(4);
    }
  }
  ::close(ends[1]);
  std::int64_t last = first;
  while (last < first + steps) {
    if (::read(ends[0], &last, sizeof(last)) != sizeof(last))
      throw std::runtime_error("the child ended");
  }
  ::kill(child, SIGKILL);
  // It may have come further.
  while (::read(ends[0], &last, sizeof(last)) == sizeof(last)) {
  }
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return last;
}

TEST(BoardKills, WhatWasFlushedSurvivesAndTheNextLifeHasAFileOfItsOwn) {
  const TemporaryFolder folder;
  std::int64_t first = 0;
  for (std::size_t life = 0; life < 4; ++life) {
    const std::int64_t last =
        kill_run(folder.path(), first, static_cast<std::int64_t>(life) * 3 + 1);
    const auto files = event_files_in(folder.path());
    ASSERT_EQ(files.size(), life + 1);
    bool is_cut = false;
    const auto found = values_of(files.back(), &is_cut);
    const auto expected = static_cast<std::size_t>(last - first + 1) * 51;
    ASSERT_GE(found.size(), expected);
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].step, first + static_cast<std::int64_t>(i / 51));
      ASSERT_EQ(found[i].tag, i % 51 == 50 ? "t/text_summary" : "a");
    }
    first = last;  // from a checkpoint of this step: it is done again
  }
}

class BoardEnds : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Ways, BoardEnds, ::testing::Values("SIGTERM", "exit", "terminate"),
                         [](const auto& way) { return std::string(way.param); });

/// In a child: the board is neither flushed nor closed.
[[noreturn]] void end_without_close(const std::filesystem::path& folder, const std::string& way) {
  testing::limit_child();
  std::set_terminate([] { ::_exit(0); });  // called when the board's thread is ready
  auto* board =
      new TensorBoard(folder, TensorBoardOptions().flush_interval(std::chrono::seconds(1)));
  for (int i = 0; i < 1000; ++i) board->scalar("a", i, i);
  board->text("t", std::string(100000, 'x'), 1000);
  if (way == "SIGTERM") ::raise(SIGTERM);
  if (way == "exit") std::exit(0);
  std::terminate();
}

TEST_P(BoardEnds, WhatIsQueuedIsWritten) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) end_without_close(folder.path(), GetParam());
  ::waitpid(child, nullptr, 0);
  bool is_cut = false;
  const auto found = values_of(event_files_in(folder.path()).at(0), &is_cut);
  // A process that is told to end soon waits a second for the thread, which a busy machine exceeds.
  if (std::string(GetParam()) == "exit") {
    EXPECT_EQ(found.size(), 1001U);
  }
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].step, static_cast<std::int64_t>(i));
  }
}

}  // namespace
}  // namespace lockstep::training

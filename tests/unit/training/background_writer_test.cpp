// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>

#include "support/expected_errors.h"
#include "support/raw_safetensors.h"
#include "support/system_call_counter.h"
#include "support/timed_waits.h"
#include "training/background/writer_access.h"

namespace lockstep::training {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using testing::expect_error;
using testing::expect_refusal;
using testing::kTestPatience;

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// What a future has thrown; "": nothing.
std::string failure_of(std::future<void>& future) {
  if (future.wait_for(kTestPatience) != std::future_status::ready) return "it is not ready";
  try {
    future.get();
  } catch (...) {
    return testing::text_of(std::current_exception());
  }
  return "";
}

/// The machine's, whose writes and publications wait while it is held.
class HeldFiles final : public native::FileSystem {
 public:
  ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
    wait();
    return FileSystem::write(file, bytes, offset);
  }
  void hold() { is_held_ = true; }
  void release() { is_held_ = false; }
  [[nodiscard]] bool has_waited() const { return has_waited_; }

 private:
  void wait() {
    while (is_held_) {
      has_waited_ = true;
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  std::atomic<bool> is_held_{false};
  std::atomic<bool> has_waited_{false};
};

TEST(BackgroundWriter, KeepsTheOrderOfEachThreadWithinAFile) {
  const TemporaryFolder folder;
  constexpr int kThreads = 8;
  constexpr int kLines = 2000;
  BackgroundWriter writer;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kLines; ++i) {
        const std::string line = std::to_string(thread) + " " + std::to_string(i);
        while (!writer.append(folder / (i % 2 == 0 ? "even" : "odd"), line)) {
          std::this_thread::sleep_for(milliseconds(1));
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(writer.flush(minutes(1)));
  std::map<int, int> next_even;
  for (const char* name : {"even", "odd"}) {
    std::map<int, int> next;
    const auto lines = lines_of(folder / name);
    EXPECT_EQ(lines.size(), static_cast<std::size_t>(kThreads * kLines / 2));
    for (const auto& line : lines) {
      int thread = 0;
      int number = 0;
      std::istringstream(line) >> thread >> number;
      EXPECT_EQ(number / 2, next[thread]++) << line;
    }
  }
  const auto statistics = writer.statistics();
  EXPECT_EQ(statistics.lines_written, static_cast<std::uint64_t>(kThreads * kLines));
  EXPECT_EQ(statistics.lines, statistics.lines_written + statistics.lines_lost);
}

TEST(BackgroundWriter, RotatesByWholeLinesAndKeepsSoManyFiles) {
  const TemporaryFolder folder;
  {
    BackgroundWriter writer(BackgroundWriterOptions().rotate_bytes(100).rotated_files(2));
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(writer.append(folder / "log", "line " + std::to_string(1000 + i)));
    }
    writer.append(folder / "log", std::string(200, 'x'));  // longer than a file
    writer.append(folder / "log", "last");
  }
  EXPECT_EQ(lines_of(folder / "log"), std::vector<std::string>{"last"});
  EXPECT_EQ(lines_of(folder / "log.1"), std::vector<std::string>{std::string(200, 'x')});
  const auto before = lines_of(folder / "log.2");
  ASSERT_FALSE(before.empty());
  EXPECT_EQ(before.back(), "line 1099");
  EXPECT_LE(read_bytes(folder / "log.2").size(), 100U);
  EXPECT_FALSE(std::filesystem::exists(folder / "log.3"));
}

TEST(BackgroundWriter, WithoutRotatedFilesTheOldOneGoes) {
  const TemporaryFolder folder;
  {
    BackgroundWriter writer(BackgroundWriterOptions().rotate_bytes(10).rotated_files(0));
    for (int i = 0; i < 5; ++i) writer.append(folder / "log", "number " + std::to_string(i));
  }
  EXPECT_EQ(lines_of(folder / "log"), std::vector<std::string>{"number 4"});
  EXPECT_FALSE(std::filesystem::exists(folder / "log.1"));
}

TEST(BackgroundWriter, AppendsBehindATornLine) {
  const TemporaryFolder folder;
  write_bytes(folder / "log", "whole\ntorn");
  {
    BackgroundWriter writer;
    writer.append(folder / "log", "new\n");
    writer.append(folder / "log", "");
  }
  EXPECT_EQ(read_bytes(folder / "log"), "whole\ntorn\nnew\n\n");
}

TEST(BackgroundWriter, AFullQueueLosesLinesAndSaysHowMany) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make(
      BackgroundWriterOptions().queue_bytes(8192).kept_bytes(8192).full_queue_wait(milliseconds(1)),
      files);
  ASSERT_TRUE(writer->append(folder / "log", "first"));
  ASSERT_TRUE(testing::happens([&] { return files.has_waited(); }));
  // The thread is in a write now.
  int lost = 0;
  int taken = 0;
  for (int i = 0; i < 1000; ++i) {
    (writer->append(folder / "log", "line " + std::to_string(i)) ? taken : lost) += 1;
  }
  EXPECT_GT(lost, 0);
  EXPECT_GT(taken, 0);
  EXPECT_EQ(writer->statistics().lines_lost, static_cast<std::uint64_t>(lost));
  files.release();
  ASSERT_TRUE(writer->flush(kTestPatience));
  ASSERT_TRUE(writer->append(folder / "log", "afterwards"));
  ASSERT_TRUE(writer->flush(kTestPatience));
  const auto lines = lines_of(folder / "log");
  const std::string note = "\"lockstep\":\"" + std::to_string(lost) +
                           " lines were lost here: the queue was full, or there was no memory\"}";
  const auto notes = std::count_if(lines.begin(), lines.end(), [&](const std::string& line) {
    return line.find(note) != std::string::npos;
  });
  EXPECT_EQ(notes, 1) << read_bytes(folder / "log");
  EXPECT_EQ(lines.size(), static_cast<std::size_t>(taken + 3));
  EXPECT_EQ(lines.back(), "afterwards");
}

TEST(BackgroundWriter, ALineLongerThanTheQueueIsCutAndSaysSo) {
  const TemporaryFolder folder;
  BackgroundWriter writer(BackgroundWriterOptions().queue_bytes(4096));
  ASSERT_TRUE(writer.append(folder / "log", std::string(100'000, 'a')));
  ASSERT_TRUE(writer.flush(kTestPatience));
  const auto lines = lines_of(folder / "log");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("did not fit the queue"), std::string::npos);
  EXPECT_LT(lines[0].size(), 2048U);
}

TEST(BackgroundWriter, WritesFilesAtOnceUnderTheirNames) {
  const TemporaryFolder folder;
  BackgroundWriter writer;
  auto first = writer.write_file(folder / "state", "one");
  auto second = writer.write_file(folder / "state", "two");
  EXPECT_EQ(failure_of(first), "");
  EXPECT_EQ(failure_of(second), "");
  EXPECT_EQ(read_bytes(folder / "state"), "two");
  auto failing = writer.write_file(folder / "no folder" / "state", "three");
  EXPECT_NE(failure_of(failing).find((folder / "no folder" / "state").string()), std::string::npos);
  const auto statistics = writer.statistics();
  EXPECT_EQ(statistics.files, 3U);
  EXPECT_EQ(statistics.files_written, 2U);
  EXPECT_EQ(statistics.files_failed, 1U);
}

TEST(BackgroundWriter, KeepsTheOrderOfAFileWhateverThePriorities) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make({}, files);
  writer->append(folder / "busy", "so that all of this is queued");
  ASSERT_TRUE(testing::happens([&] { return files.has_waited(); }));
  const auto path = folder / "file";
  const std::map<std::string, at::Tensor> tensors{{"a", torch::ones({3})}};
  std::vector<std::future<void>> futures;
  // Lines come before small files, and these before tensors, but not within one file.
  writer->append(path, "gone with the next");
  futures.push_back(writer->save_async(tensors, path));
  futures.push_back(writer->write_file(path, "text\n"));
  writer->append(path, "one");
  writer->append(folder / "." / "x" / ".." / "file", "two");  // the same file
  futures.push_back(writer->write_file(folder / "other", "other"));
  files.release();
  for (auto& future : futures) EXPECT_EQ(failure_of(future), "");
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(read_bytes(path), "text\none\ntwo\n");
}

TEST(BackgroundWriter, ALineBehindAFileWaitsForNothingElse) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make({}, files);
  writer->append(folder / "busy", "so that the rest is queued");
  ASSERT_TRUE(testing::happens([&] { return files.has_waited(); }));
  auto written = writer->write_file(folder / "file", "text\n");
  writer->append(folder / "file", "line");
  files.release();
  // No call wakes the thread.
  EXPECT_TRUE(testing::happens([&] { return read_bytes(folder / "file") == "text\nline\n"; }));
}

TEST(BackgroundWriter, LinesAndSmallFilesGoBetweenThePiecesOfALargeFile) {
  const TemporaryFolder folder;
  std::mutex mutex;
  std::vector<std::string> order;  // of what was written, guarded by mutex
  class Recorded final : public native::FileSystem {
   public:
    explicit Recorded(std::function<void(std::size_t)> on_write) : on_write_(std::move(on_write)) {}
    ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
      on_write_(bytes.size());
      return FileSystem::write(file, bytes, offset);
    }

   private:
    std::function<void(std::size_t)> on_write_;
  };
  testing::Signal first_piece("until a piece of the tensors was written");
  testing::Signal queued("until a line and a file were queued");
  bool is_first = true;
  Recorded files([&](std::size_t bytes) {
    const std::lock_guard lock(mutex);
    order.push_back(bytes >= (1U << 20) ? "piece" : bytes == 5 ? "line" : bytes == 4 ? "file" : "");
    if (bytes < (1U << 20) || !std::exchange(is_first, false)) return;
    first_piece.give();
    queued.wait();
  });
  const auto writer = WriterAccess::make({}, files);
  auto saved = writer->save_async({{"a", torch::zeros({8 << 20})}}, folder / "tensors");  // 32 MiB
  first_piece.wait();
  writer->append(folder / "log", "line");
  auto small = writer->write_file(folder / "small", "file");
  queued.give();
  EXPECT_EQ(failure_of(small), "");
  EXPECT_EQ(failure_of(saved), "");
  const std::lock_guard lock(mutex);
  const auto at = [&](const char* what) { return std::find(order.begin(), order.end(), what); };
  ASSERT_NE(at("line"), order.end());
  ASSERT_NE(at("file"), order.end());
  EXPECT_LT(at("line"), at("file"));
  EXPECT_LE(std::count(order.begin(), at("file"), "piece"), 2);
  EXPECT_GE(std::count(order.begin(), order.end(), "piece"), 7);
}

TEST(BackgroundWriter, SavesTensorsAsTheyAreAtTheCall) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make({}, files);
  std::map<std::string, at::Tensor> tensors{
      {"float", torch::arange(1000, torch::kFloat)},
      {"transposed", torch::arange(6, torch::kLong).reshape({2, 3}).t()},
      {"conjugated", torch::complex(torch::ones({2}), torch::ones({2})).conj()},
      {"part", torch::arange(10, torch::kDouble).narrow(0, 2, 3)},
      {"bf16", torch::ones({3}, torch::kBFloat16)},
      {"bool", torch::tensor({true, false})},
      {"scalar", torch::tensor(3.0F)},
      {"empty", torch::empty({0, 4})},
      {"needs gradient", torch::ones({2}, torch::requires_grad())},
  };
  std::map<std::string, at::Tensor> expected;
  for (const auto& [name, tensor] : tensors) {
    expected.emplace(name, tensor.detach().clone().resolve_conj());
  }
  auto saved = writer->save_async(tensors, folder / "file", {{"step", "3"}});
  const torch::NoGradGuard no_gradients;
  for (auto& [name, tensor] : tensors) tensor.zero_();
  files.release();
  ASSERT_EQ(failure_of(saved), "");
  const auto found = load_safetensors(folder / "file");
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    EXPECT_TRUE(torch::equal(found.at(name), tensor)) << name;
    EXPECT_EQ(found.at(name).scalar_type(), tensor.scalar_type()) << name;
  }
  EXPECT_EQ(read_safetensors_header(folder / "file").metadata.at("step"), "3");
  // The same bytes as save_safetensors writes.
  save_safetensors(folder / "other", expected, {{"step", "3"}});
  EXPECT_EQ(read_bytes(folder / "file"), read_bytes(folder / "other"));
}

TEST(BackgroundWriter, WhatGoesWrongWithTensorsIsInTheFuture) {
  const TemporaryFolder folder;
  BackgroundWriter writer;
  auto undefined = writer.save_async({{"a", at::Tensor()}}, folder / "file");
  EXPECT_NE(failure_of(undefined).find("not defined"), std::string::npos);
  auto meta = writer.save_async({{"a", torch::ones({2}, torch::kMeta)}}, folder / "file");
  EXPECT_NE(failure_of(meta).find("meta"), std::string::npos);
  auto nowhere = writer.save_async({{"a", torch::ones({2})}}, folder / "none" / "file");
  EXPECT_NE(failure_of(nowhere).find("cannot be made"), std::string::npos);
  EXPECT_EQ(writer.statistics().files_failed, 3U);
  auto right = writer.save_async({{"a", torch::ones({2})}}, folder / "file");
  EXPECT_EQ(failure_of(right), "");
}

TEST(BackgroundWriter, MoreFilesThanMayWaitAreRefused) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make(BackgroundWriterOptions().file_bytes(1000), files);
  auto first = writer->write_file(folder / "first", std::string(5000, 'a'));  // alone, so taken
  auto second = writer->write_file(folder / "second", std::string(5000, 'b'));
  EXPECT_NE(failure_of(second).find("file_bytes is 1000"), std::string::npos);
  files.release();
  EXPECT_EQ(failure_of(first), "");
  ASSERT_TRUE(writer->flush(kTestPatience));
  auto third = writer->write_file(folder / "third", std::string(5000, 'c'));
  EXPECT_EQ(failure_of(third), "");
}

TEST(BackgroundWriter, AFlushHasADeadline) {
  const TemporaryFolder folder;
  HeldFiles files;
  files.hold();
  const auto writer = WriterAccess::make({}, files);
  writer->append(folder / "log", "line");
  EXPECT_FALSE(writer->flush(milliseconds(20)));
  files.release();
  EXPECT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(lines_of(folder / "log"), std::vector<std::string>{"line"});
}

TEST(BackgroundWriter, TheDestructorWritesEverything) {
  const TemporaryFolder folder;
  std::future<void> saved;
  {
    BackgroundWriter writer(BackgroundWriterOptions().batch_delay(std::chrono::seconds(1)));
    for (int i = 0; i < 100; ++i) writer.append(folder / "log", "line");
    saved = writer.save_async({{"a", torch::ones({1 << 20})}}, folder / "tensors");
  }
  EXPECT_EQ(lines_of(folder / "log").size(), 100U);
  EXPECT_EQ(failure_of(saved), "");
}

TEST(BackgroundWriter, ADestructorWithoutTimeSaysWhatIsLost) {
  const TemporaryFolder folder;
  std::future<void> never;
  ::testing::internal::CaptureStderr();
  {
    BackgroundWriter writer(BackgroundWriterOptions().close_timeout(milliseconds(0)));
    writer.append(folder / "no folder" / "log", "line");
    writer.append(folder / "no folder" / "log", "line");
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("2 lines were lost here"), std::string::npos) << said;
  EXPECT_NE(said.find("No such file or directory"), std::string::npos) << said;
}

TEST(BackgroundWriter, MostLinesNeedNoSystemCall) {
  SystemCallCounter counter;
  if (!counter.is_available()) GTEST_SKIP() << "this kernel cannot count system calls";
  const TemporaryFolder folder;
  const auto path = folder / "log";
  BackgroundWriter writer(BackgroundWriterOptions().batch_delay(std::chrono::seconds(1)));
  writer.append(path, "the file is known now");
  // Again while the thread collects lines: whenever a batch ends in between, one call wakes it.
  std::size_t least = 1000;
  for (int attempt = 0; attempt < 20 && least > 0; ++attempt) {
    const auto calls = counter.calls_of([&] {
      for (int i = 0; i < 100; ++i) writer.append(path, "a line of a log");
    });
    least = std::min(least, calls.size());
  }
  EXPECT_EQ(least, 0U);
}

TEST(BackgroundWriter, RefusesOptionsOutOfRange) {
  using Options = BackgroundWriterOptions;
  const auto make = [](const Options& options) { const BackgroundWriter writer(options); };
  expect_refusal([&] { make(Options().queue_bytes(100)); }, "queue_bytes is 100");
  expect_refusal([&] { make(Options().kept_bytes(0)); }, "kept_bytes is 0");
  expect_refusal([&] { make(Options().file_bytes(-1)); }, "file_bytes is -1");
  expect_refusal([&] { make(Options().rotate_bytes(-1)); }, "rotate_bytes is -1");
  expect_refusal([&] { make(Options().rotated_files(1001)); }, "rotated_files is 1001");
  expect_refusal([&] { make(Options().batch_delay(milliseconds(-1))); }, "batch_delay is -1 ms");
  expect_refusal([&] { make(Options().full_queue_wait(std::chrono::hours(1))); },
                 "full_queue_wait is");
  expect_refusal([&] { make(Options().close_timeout(milliseconds(-5))); }, "close_timeout is -5");
}

TEST(BackgroundWriter, AProcessHasSoManyAtMost) {
  std::vector<std::unique_ptr<BackgroundWriter>> writers;
  for (int i = 0; i < 64; ++i) writers.push_back(std::make_unique<BackgroundWriter>());
  expect_refusal([] { const BackgroundWriter another; }, "at most 64 background writers");
  writers.pop_back();
  EXPECT_NO_THROW(const BackgroundWriter another);
}

}  // namespace
}  // namespace lockstep::training

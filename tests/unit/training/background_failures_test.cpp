// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <new>
#include <regex>

#include "support/expected_errors.h"
#include "support/failing_file_system.h"
#include "support/forks.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"
#include "training/background/writer_access.h"

namespace lockstep::training {
namespace {

using std::chrono::milliseconds;
using testing::FailingFileSystem;
using testing::kTestPatience;

/// What a log has: its lines in their order, and how many others its notes count.
struct FoundLog {
  std::vector<int> numbers;
  int lost = 0;
};

/// Of a file of lines "line N"; the files that were rotated come first. Adds a failure for
/// anything else.
FoundLog read_log(const std::filesystem::path& path, int rotated = 0) {
  FoundLog found;
  const std::regex note("(\\d+) lines? (was|were) lost here");
  for (int number = rotated; number >= 0; --number) {
    const auto name = number == 0 ? path.string() : path.string() + "." + std::to_string(number);
    std::ifstream file(name);
    for (std::string line; std::getline(file, line);) {
      std::smatch match;
      if (line.rfind("line ", 0) == 0) {
        found.numbers.push_back(std::stoi(line.substr(5)));
      } else if (std::regex_search(line, match, note)) {
        found.lost += std::stoi(match[1]);
      } else {
        ADD_FAILURE() << "in " << name << ": '" << line << "'";
      }
    }
  }
  return found;
}

void expect_ascending(const std::vector<int>& numbers) {
  for (std::size_t i = 1; i < numbers.size(); ++i) EXPECT_LT(numbers[i - 1], numbers[i]);
}

constexpr std::array<int, 4> kErrors{ENOSPC, EIO, EINTR, 0};

TEST(BackgroundFailures, NoFailingCallLosesALine) {
  constexpr int kLines = 40;
  for (const int error : kErrors) {
    // Each call in turn, until there is no such call.
    bool has_failed = true;
    for (int call = 0; has_failed; ++call) {
      const TemporaryFolder folder;
      FailingFileSystem files(call, error);
      {
        const auto writer = WriterAccess::make(
            BackgroundWriterOptions().rotate_bytes(100).rotated_files(100), files);
        for (int i = 0; i < kLines; ++i) {
          ASSERT_TRUE(writer->append(folder / "log", "line " + std::to_string(i)));
          if (i != kLines / 2) continue;
          ASSERT_TRUE(writer->flush(kTestPatience));
        }
      }
      has_failed = files.has_failed();
      const FoundLog found = read_log(folder / "log", 100);
      EXPECT_EQ(found.lost, 0) << "error " << error << " of call " << call;
      EXPECT_EQ(found.numbers.size(), static_cast<std::size_t>(kLines))
          << "error " << error << " of call " << call;
      expect_ascending(found.numbers);
    }
  }
}

TEST(BackgroundFailures, AFailingCallOfASaveIsInTheFutureAndTheOldFileStays) {
  const std::map<std::string, at::Tensor> tensors{{"a", torch::ones({100})}};
  for (const int error : kErrors) {
    bool has_failed = true;
    for (int call = 0; has_failed; ++call) {
      const TemporaryFolder folder;
      write_bytes(folder / "file", "old");
      FailingFileSystem files(call, error);
      bool is_written = true;
      {
        const auto writer = WriterAccess::make({}, files);
        auto saved = writer->save_async(tensors, folder / "file");
        try {
          saved.get();
        } catch (const c10::Error& failure) {
          is_written = false;
          EXPECT_NE(std::string(failure.what()).find(folder.path().string()), std::string::npos);
        }
        EXPECT_EQ(writer->statistics().files_failed, is_written ? 0U : 1U);
      }
      has_failed = files.has_failed();
      const bool is_old = read_bytes(folder / "file") == "old";
      if (is_written) {
        EXPECT_FALSE(is_old);
      } else if (is_old) {
        // Nothing else is left.
        const auto begin = std::filesystem::directory_iterator(folder.path());
        EXPECT_EQ(std::distance(begin, std::filesystem::directory_iterator()), 1);
      }
    }
  }
}

/// The machine's, whose disk is full at times.
class FullDisk final : public native::FileSystem {
 public:
  ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
    if (!is_full) return FileSystem::write(file, bytes, offset);
    ++refused;
    errno = ENOSPC;
    return -1;
  }
  std::atomic<bool> is_full{false};
  std::atomic<int> refused{0};
};

TEST(BackgroundFailures, AFullDiskKeepsTheFirstLinesAndCountsTheOthers) {
  const TemporaryFolder folder;
  FullDisk files;
  const auto writer = WriterAccess::make(BackgroundWriterOptions().kept_bytes(200), files);
  int given = 0;
  const auto append = [&](int lines) {
    for (int i = 0; i < lines; ++i)
      writer->append(folder / "log", "line " + std::to_string(given++));
  };
  append(5);
  ASSERT_TRUE(writer->flush(kTestPatience));
  files.is_full = true;
  append(1000);
  ASSERT_TRUE(testing::happens([&] { return files.refused > 0; }));
  EXPECT_FALSE(writer->flush(milliseconds(10)));
  append(1000);
  files.is_full = false;
  ASSERT_TRUE(writer->flush(kTestPatience));
  append(5);
  ASSERT_TRUE(writer->flush(kTestPatience));
  const FoundLog found = read_log(folder / "log");
  expect_ascending(found.numbers);
  EXPECT_GT(found.lost, 1500);
  EXPECT_EQ(static_cast<int>(found.numbers.size()) + found.lost, given);
  EXPECT_EQ(found.numbers.back(), given - 1);
  EXPECT_NE(read_bytes(folder / "log").find("No space left on device"), std::string::npos);
  const auto statistics = writer->statistics();
  EXPECT_EQ(statistics.lines_lost, static_cast<std::uint64_t>(found.lost));
  EXPECT_EQ(statistics.lines_written, found.numbers.size());
  EXPECT_EQ(statistics.lines, static_cast<std::uint64_t>(given));
}

TEST(BackgroundFailures, AFileWaitsForLinesBeforeItThatCannotBeWritten) {
  const TemporaryFolder folder;
  FullDisk files;
  files.is_full = true;
  const auto writer = WriterAccess::make({}, files);
  writer->append(folder / "file", "line 0");
  ASSERT_TRUE(testing::happens([&] { return files.refused > 0; }));
  auto written = writer->write_file(folder / "file", "text\n");
  EXPECT_FALSE(writer->flush(milliseconds(50)));
  writer->append(folder / "file", "line 1");
  files.is_full = false;
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_NO_THROW(written.get());
  EXPECT_EQ(read_bytes(folder / "file"), "text\nline 1\n");
}

TEST(BackgroundFailures, ALackOfMemoryInTheThreadLosesNothing) {
  /// Whose first calls throw.
  class Throwing final : public native::FileSystem {
   public:
    ssize_t write(int file, std::span<const std::byte> bytes, std::uint64_t offset) override {
      if (left-- > 0) throw std::bad_alloc();
      return FileSystem::write(file, bytes, offset);
    }
    std::atomic<int> left{3};
  };
  const TemporaryFolder folder;
  Throwing files;
  const auto writer = WriterAccess::make({}, files);
  writer->append(folder / "log", "line 0");
  ASSERT_TRUE(writer->flush(kTestPatience));
  EXPECT_EQ(read_bytes(folder / "log"), "line 0\n");
  files.left = 1;
  auto written = writer->write_file(folder / "file", "text");
  EXPECT_THROW(written.get(), c10::Error);
}

TEST(BackgroundFailures, PathsThatAreNoneAreRefused) {
  BackgroundWriter writer;
  testing::expect_refusal([&] { writer.append("", "line"); }, "the path of a file is empty");
  ::testing::internal::CaptureStderr();
  testing::expect_refusal([&] { writer.write_file("", "text").get(); }, "is empty");
  testing::expect_refusal([&] { writer.save_async({}, "").get(); }, "is empty");
  ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(writer.statistics().files_failed, 2U);
}

TEST(BackgroundFailures, AFileThatCannotBeOpenedHoldsUpNoOther) {
  const TemporaryFolder folder;
  BackgroundWriter writer;
  writer.append(folder / "later" / "log", "line 0");
  writer.append(folder / "log", "line 0");
  std::filesystem::create_directory(folder / "folder");
  writer.append(folder / "folder", "line 0");
  ASSERT_TRUE(testing::happens([&] { return read_bytes(folder / "log") == "line 0\n"; }));
  EXPECT_FALSE(writer.flush(milliseconds(1)));
  std::filesystem::create_directory(folder / "later");
  std::filesystem::remove(folder / "folder");
  ASSERT_TRUE(writer.flush(kTestPatience));
  EXPECT_EQ(read_bytes(folder / "later" / "log"), "line 0\n");
  EXPECT_EQ(read_bytes(folder / "folder"), "line 0\n");
}

TEST(BackgroundFailures, APipeIsNoLog) {
  const TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  ::testing::internal::CaptureStderr();
  {
    BackgroundWriter writer(BackgroundWriterOptions().close_timeout(milliseconds(0)));
    writer.append(folder / "pipe", "line 0");
  }
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("pipe: 1 line was lost here"), std::string::npos) << said;
}

/// In a process with a filesystem of its own, of so many bytes, over `folder`. Exit status 77: this
/// machine has none.
void on_small_disk(const std::filesystem::path& folder, const char* size,
                   const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    testing::limit_child();
    const bool has_disk =
        ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
    if (!has_disk || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", folder.c_str(), "tmpfs", 0, size) != 0) {
      ::_exit(77);
    }
    try {
      body();
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "status " << status;
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this machine lets us mount no filesystem";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(BackgroundFailures, ADiskThatIsReallyFull) {
  const TemporaryFolder folder;
  on_small_disk(folder.path(), "size=256k", [&] {
    int given = 0;
    BackgroundWriter writer(BackgroundWriterOptions().kept_bytes(10'000));
    const auto append = [&](int lines) {
      for (int i = 0; i < lines; ++i) {
        writer.append(folder / "log", "line " + std::to_string(given++));
      }
    };
    write_bytes(folder / "ballast", std::string(200'000, 'b'));
    append(20'000);  // about 210 kB
    EXPECT_FALSE(writer.flush(milliseconds(200)));
    auto saved = writer.save_async({{"a", torch::ones({1 << 14})}}, folder / "tensors");
    EXPECT_THROW(saved.get(), c10::Error);
    EXPECT_FALSE(std::filesystem::exists(folder / "tensors"));
    std::filesystem::remove(folder / "ballast");
    EXPECT_TRUE(writer.flush(kTestPatience));
    append(1);
    EXPECT_TRUE(writer.flush(kTestPatience));
    const FoundLog found = read_log(folder / "log");
    expect_ascending(found.numbers);
    EXPECT_EQ(static_cast<int>(found.numbers.size()) + found.lost, given);
  });
}

}  // namespace
}  // namespace lockstep::training

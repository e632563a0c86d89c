// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/read_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <semaphore>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "native/posix/file_descriptor.h"
#include "native/posix/make_read_engine.h"
#include "native/posix/page_cache.h"
#include "native/posix/read_pool.h"
#include "native/posix/read_ring.h"
#include "support/page_cache.h"

namespace lockstep::native {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Reads a few bytes at a time, and is interrupted before every third read.
class StutteringFiles : public FileSystem {
 public:
  ssize_t read(int file, std::span<std::byte> target, std::uint64_t offset) override {
    const auto call = calls_.fetch_add(1);
    if (call % 3 == 2) {
      errno = EINTR;
      return -1;
    }
    return FileSystem::read(file, target.first(std::min<std::size_t>(target.size(), 1 + call % 97)),
                            offset);
  }
  int open(const std::string& path, int flags, mode_t mode) override {
    if (calls_.fetch_add(1) % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    return FileSystem::open(path, flags, mode);
  }

 private:
  std::atomic<std::size_t> calls_{0};
};

// What a read does is up to the test.
class ScriptedFiles : public FileSystem {
 public:
  using Read = std::function<ssize_t(int file, std::span<std::byte> target, std::uint64_t offset)>;
  explicit ScriptedFiles(Read read) : read_(std::move(read)) {}
  ssize_t read(int file, std::span<std::byte> target, std::uint64_t offset) override {
    return read_(file, target, offset);
  }

 private:
  Read read_;
};

Deadline a_minute() {
  return Deadline::after(seconds(60));
}

// Reads stand still until the test lets them go on.
class GatedFiles : public FileSystem {
 public:
  ssize_t read(int file, std::span<std::byte> target, std::uint64_t offset) override {
    ++begun;
    while (!is_open) std::this_thread::sleep_for(milliseconds(1));
    return FileSystem::read(file, target, offset);
  }
  /// Until so many reads have begun, at most for a minute.
  void wait_for(int reads) const {
    const auto end = a_minute();
    while (begun < reads && !end.has_passed()) std::this_thread::sleep_for(milliseconds(1));
  }
  std::atomic<int> begun{0};
  std::atomic<bool> is_open{false};
};

struct EngineKind {
  const char* name;
  std::function<std::unique_ptr<ReadEngine>(std::size_t depth)> make;  // nothing: not here
};

std::vector<EngineKind> engine_kinds() {
  static StutteringFiles stuttering;
  return {
      {"Pool", [](std::size_t depth) { return std::make_unique<ReadPool>(depth, 4); }},
      {"PoolOfOne", [](std::size_t depth) { return std::make_unique<ReadPool>(depth, 1); }},
      {"PoolWithShortReads",
       [](std::size_t depth) { return std::make_unique<ReadPool>(depth, 4, stuttering); }},
      {"Ring", [](std::size_t depth) { return ReadRing::try_make(depth); }},
      {"RingWithShortReads",
       [](std::size_t depth) { return ReadRing::try_make(depth, nullptr, 61); }},
  };
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-read-XXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + '/' + name; }

  // Bytes that say where they lie.
  std::string write(const std::string& name, std::size_t bytes) const {
    std::string content(bytes, '\0');
    for (std::size_t at = 0; at < bytes; ++at) content[at] = byte_at(at);
    std::ofstream(file(name), std::ios::binary) << content;
    return file(name);
  }
  static char byte_at(std::size_t at) { return static_cast<char>((at * 2654435761U) >> 13); }

 private:
  std::string path_;
};

FileDescriptor opened(const std::string& path) {
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

std::size_t entries_of(const char* folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                                std::filesystem::directory_iterator()));
}

class ReadEngineTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  void SetUp() override {
    engine = GetParam().make(16);
    if (!engine) GTEST_SKIP() << "this kernel has no io_uring for this process";
  }

  ReadResult read(ReadRequest request) {
    EXPECT_TRUE(engine->submit(std::move(request)));
    const auto result = engine->reap(a_minute());
    EXPECT_TRUE(result.has_value());
    return result.value_or(ReadResult{});
  }
  static std::span<std::byte> bytes_of(std::string& text) {
    return std::as_writable_bytes(std::span(text));
  }

  Folder folder;
  std::unique_ptr<ReadEngine> engine;
};

TEST_P(ReadEngineTest, GivesTheBytesOfManyPartsInAnyOrder) {
  const auto path = folder.write("data", 200'000);
  const auto file = opened(path);
  std::mt19937 random(7);
  struct Part {
    std::size_t offset;
    std::string target;
  };
  std::vector<Part> parts(300);
  for (auto& part : parts) {
    part.offset = random() % 199'000;
    part.target.resize(1 + random() % 1000);
  }
  std::size_t next = 0;
  std::size_t reaped = 0;
  while (reaped < parts.size()) {
    while (next < parts.size()) {
      ReadRequest request;
      request.tag = next;
      if (next % 2 == 0) request.file = file.get();
      request.path = path;
      request.offset = parts[next].offset;
      request.target = bytes_of(parts[next].target);
      if (!engine->submit(request)) break;
      ++next;
    }
    EXPECT_LE(engine->in_flight(), engine->capacity());
    const auto result = engine->reap(a_minute());
    ASSERT_TRUE(result);
    const auto& part = parts[result->tag];
    EXPECT_EQ(result->error, 0);
    ASSERT_EQ(result->bytes, part.target.size());
    for (std::size_t at = 0; at < part.target.size(); ++at) {
      ASSERT_EQ(part.target[at], Folder::byte_at(part.offset + at)) << "at byte " << at;
    }
    ++reaped;
  }
  EXPECT_EQ(engine->in_flight(), 0U);
  EXPECT_FALSE(engine->reap(a_minute())) << "there is nothing to wait for";
}

TEST_P(ReadEngineTest, EndsAtTheEndOfTheFile) {
  const auto path = folder.write("data", 1000);
  std::string target(500, 'x');
  auto result = read({1, -1, path, 800, bytes_of(target)});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 200U);
  EXPECT_EQ(target[199], Folder::byte_at(999));
  EXPECT_EQ(target[200], 'x');
  result = read({2, -1, path, 5000, bytes_of(target)});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 0U);
}

TEST_P(ReadEngineTest, HolesAreZeros) {
  const auto path = folder.write("data", 100);
  ASSERT_EQ(::truncate(path.c_str(), 300'000), 0);
  std::string target(1000, 'x');
  const auto result = read({1, -1, path, 90, bytes_of(target)});
  EXPECT_EQ(result.bytes, 1000U);
  EXPECT_EQ(target[9], Folder::byte_at(99));
  EXPECT_EQ(target.substr(10), std::string(990, '\0'));
}

TEST_P(ReadEngineTest, FileThatBecameShorterEndsEarlier) {
  const auto path = folder.write("data", 10'000);
  const auto file = opened(path);
  ASSERT_EQ(::truncate(path.c_str(), 300), 0);
  std::string target(1000, 'x');
  const auto result = read({1, file.get(), path, 0, bytes_of(target)});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 300U);
}

TEST_P(ReadEngineTest, SaysWhatIsWrongWithTheFile) {
  std::string target(10, 'x');
  const auto missing = folder.file("missing");
  auto result = read({4711, -1, missing, 0, bytes_of(target)});
  EXPECT_EQ(result.error, ENOENT);
  EXPECT_EQ(result.tag, 4711U);
  try {
    throw_if_failed(result, missing);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), ENOENT);
    EXPECT_NE(std::string(error.what()).find(missing + ": cannot be read"), std::string::npos);
  }
  EXPECT_EQ(read({2, -1, folder.file(""), 0, bytes_of(target)}).error, EISDIR);
  const auto path = folder.write("data", 100);
  result = read({3, -1, path, 0, bytes_of(target)});
  EXPECT_EQ(result.error, 0) << "the next request does not suffer";
  EXPECT_NO_THROW(throw_if_failed(result, path));
}

TEST_P(ReadEngineTest, AnEmptyTargetIsReadAtOnce) {
  const auto path = folder.write("data", 100);
  const auto result = read({1, -1, path, 0, {}});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 0U);
}

TEST_P(ReadEngineTest, CancelledRequestsGiveNothing) {
  const auto path = folder.write("data", 100'000);
  std::vector<std::string> targets(engine->capacity(), std::string(50'000, 'x'));
  for (std::size_t at = 0; at < targets.size(); ++at) {
    ASSERT_TRUE(engine->submit({at, -1, path, at, bytes_of(targets[at])}));
  }
  EXPECT_FALSE(engine->submit({99, -1, path, 0, bytes_of(targets[0])})) << "it is full";
  EXPECT_TRUE(engine->cancel(a_minute()));
  EXPECT_EQ(engine->in_flight(), 0U);
  const auto result = read({4711, -1, path, 5, bytes_of(targets[0])});
  EXPECT_EQ(result.tag, 4711U);
  EXPECT_EQ(targets[0][0], Folder::byte_at(5));
}

TEST_P(ReadEngineTest, LeavesNoDescriptorAndNoThread) {
  engine.reset();
  const auto path = folder.write("data", 100'000);
  const auto descriptors = entries_of("/proc/self/fd");
  const auto threads = entries_of("/proc/self/task");
  std::vector<std::string> targets(64, std::string(50'000, 'x'));
  engine = GetParam().make(64);
  for (std::size_t at = 0; at < targets.size(); ++at) {
    ASSERT_TRUE(engine->submit({at, -1, path, at, bytes_of(targets[at])}));
  }
  ASSERT_TRUE(engine->reap(a_minute()));
  engine.reset();
  EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
  // A thread that was joined may be there for another moment.
  const auto end = a_minute();
  while (entries_of("/proc/self/task") > threads && !end.has_passed()) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_LE(entries_of("/proc/self/task"), threads);
}

TEST_P(ReadEngineTest, ACopyInAForkDoesNothing) {
  const auto path = folder.write("data", 100);
  std::string target(10, 'x');
  static_cast<void>(read({1, -1, path, 0, bytes_of(target)}));
  const pid_t child = ::fork();
  if (child == 0) {
    const bool accepts = engine->submit({1, -1, path, 0, bytes_of(target)});
    const bool gives = engine->reap(Deadline::after(milliseconds(0))).has_value();
    const bool is_done = engine->cancel(Deadline::after(milliseconds(0)));
    engine.reset();
    ::_exit(accepts || gives || !is_done ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read({2, -1, path, 7, bytes_of(target)}).bytes, 10U);
  EXPECT_EQ(target[0], Folder::byte_at(7));
}

INSTANTIATE_TEST_SUITE_P(Engines, ReadEngineTest, ::testing::ValuesIn(engine_kinds()),
                         [](const auto& kind) { return std::string(kind.param.name); });

std::span<std::byte> bytes(std::string& text) {
  return std::as_writable_bytes(std::span(text));
}

TEST(ReadPool, AnErrorComesWithWhatWasReadBefore) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  int calls = 0;
  ScriptedFiles files([&](int file, std::span<std::byte> target, std::uint64_t offset) -> ssize_t {
    if (calls++ == 2) {
      errno = EIO;
      return -1;
    }
    return ::pread(file, target.data(), 10, static_cast<off_t>(offset));
  });
  ReadPool pool(4, 1, files);
  std::string target(100, 'x');
  ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
  const auto result = pool.reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->error, EIO);
  EXPECT_EQ(result->bytes, 20U);
  EXPECT_EQ(target[19], Folder::byte_at(19));
}

TEST(ReadPool, AFileThatMayNotBeOpenedSaysSo) {
  struct Closed : FileSystem {
    int open(const std::string&, int, mode_t) override {
      errno = EACCES;
      return -1;
    }
  } files;
  ReadPool pool(4, 1, files);
  std::string target(10, 'x');
  ASSERT_TRUE(pool.submit({1, -1, "/there/is/one", 0, bytes(target)}));
  ASSERT_TRUE(pool.warm(2, "/there/is/one", 0, 10));
  for (int count = 0; count < 2; ++count) {
    const auto result = pool.reap(a_minute());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error, EACCES);
  }
}

TEST(ReadPool, WhereThereIsNoMemoryTheRequestSaysSo) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  ScriptedFiles files(
      [](int, std::span<std::byte>, std::uint64_t) -> ssize_t { throw std::bad_alloc(); });
  ReadPool pool(4, 1, files);
  std::string target(100, 'x');
  for (int count = 0; count < 2; ++count) {
    ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
    const auto result = pool.reap(a_minute());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error, ENOMEM);
  }
}

// A disk of blocks of 4096 bytes, and a file that ends at a multiple of 512.
TEST(ReadPool, ADirectReadEndsWhereTheFileDoes) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  const auto file = opened(path);
  ScriptedFiles files([](int, std::span<std::byte>, std::uint64_t offset) -> ssize_t {
    if (offset % 4096 == 0) return 1024;
    errno = EINVAL;
    return -1;
  });
  ReadPool pool(4, 1, files);
  std::string target(8192, 'x');
  ReadRequest request{1, file.get(), path, 0, bytes(target)};
  request.is_direct = true;
  ASSERT_TRUE(pool.submit(request));
  auto result = pool.reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->error, 0);
  EXPECT_EQ(result->bytes, 1024U);
  request.offset = 100;
  ASSERT_TRUE(pool.submit(request));
  result = pool.reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->error, EINVAL) << "that is the caller's mistake";
}

TEST(ReadPool, NobodyWaitsLongerThanToldForADiskThatDoesNotAnswer) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  GatedFiles files;
  std::string target(10, 'x');
  std::string other(10, 'x');
  ReadPool pool(4, 1, files);
  ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
  ASSERT_TRUE(pool.submit({2, -1, path, 0, bytes(other)}));
  EXPECT_FALSE(pool.reap(Deadline::after(milliseconds(20))));
  files.wait_for(1);
  EXPECT_FALSE(pool.cancel(Deadline::after(milliseconds(20)))) << "a thread is at it";
  EXPECT_EQ(pool.in_flight(), 0U);
  files.is_open = true;
  std::string last(10, 'x');
  ASSERT_TRUE(pool.submit({3, -1, path, 0, bytes(last)}));
  const auto result = pool.reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->tag, 3U) << "the others were cancelled";
  EXPECT_EQ(files.begun, 2) << "the second one was taken back";
  EXPECT_TRUE(pool.cancel(a_minute()));
}

TEST(ReadPool, ReadsAsManyAtOnceAsItHasThreads) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  GatedFiles files;
  std::vector<std::string> targets(8, std::string(10, 'x'));
  ReadPool pool(8, 3, files);
  EXPECT_EQ(pool.threads(), 0U);
  for (auto& target : targets) ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
  files.wait_for(3);
  EXPECT_EQ(files.begun, 3);
  EXPECT_EQ(pool.threads(), 3U);
  files.is_open = true;
  for (std::size_t count = 0; count < targets.size(); ++count) {
    EXPECT_TRUE(pool.reap(a_minute()));
  }
}

TEST(ReadPool, AChildKeepsNoneOfItsFiles) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  GatedFiles files;
  std::string target(10, 'x');
  ReadPool pool(1, 1, files);
  ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
  files.wait_for(1);
  const auto has_file = [&path] {
    for (int number = 0; number < 256; ++number) {
      std::array<char, 4096> name{};
      const auto link = "/proc/self/fd/" + std::to_string(number);
      if (::readlink(link.c_str(), name.data(), name.size() - 1) > 0 && path == name.data()) {
        return true;
      }
    }
    return false;
  };
  EXPECT_TRUE(has_file());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(has_file() ? 1 : 0);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  files.is_open = true;
  EXPECT_TRUE(pool.reap(a_minute()));
}

TEST(ReadPool, ItsThreadsTakeNoSignal) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  GatedFiles files;
  std::string target(10, 'x');
  ReadPool pool(1, 1, files);
  ASSERT_TRUE(pool.submit({1, -1, path, 0, bytes(target)}));
  files.wait_for(1);
  std::string blocked;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(task.path() / "status");
    std::string line;
    bool is_ours = false;
    while (std::getline(status, line)) {
      if (line == "Name:\tlockstep-read") is_ours = true;
      if (is_ours && line.starts_with("SigBlk:")) blocked = line.substr(8);
    }
  }
  files.is_open = true;
  ASSERT_FALSE(blocked.empty()) << "there is no such thread";
  const auto mask = std::stoull(blocked, nullptr, 16);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD}) {
    EXPECT_NE(mask >> (signal - 1) & 1, 0U) << "signal " << signal;
  }
}

// For tests of what is read into the page cache: skips them where that cannot be found out.
#define SKIP_UNLESS_DROPPED(folder, path)                              \
  if (!testing::tells_what_is_cached((folder).write("asked", 4096))) { \
    GTEST_SKIP() << "this file system does not say what it keeps";     \
  }                                                                    \
  if (!testing::drop_from_page_cache(path)) {                          \
    GTEST_SKIP() << "this file system keeps all in memory";            \
  }

TEST(ReadPool, WarmsAPartOfAFile) {
  Folder folder;
  const auto path = folder.write("data", 3'000'000);
  SKIP_UNLESS_DROPPED(folder, path);
  struct Advising : FileSystem {
    std::atomic<std::uint64_t> advised{0};
    void start_reading(int file, std::uint64_t offset, std::uint64_t count) override {
      advised += count;
      FileSystem::start_reading(file, offset, count);
    }
  } files;
  ReadPool pool(4, 1, files);
  const auto warm = [&](std::uint64_t offset, std::uint64_t count) {
    EXPECT_TRUE(pool.warm(9, path, offset, count));
    return pool.reap(a_minute()).value_or(ReadResult{});
  };
  ReadResult result;
  EXPECT_TRUE(testing::in_one_of_many_attempts([&] {
    static_cast<void>(testing::drop_from_page_cache(path));
    files.advised = 0;
    result = warm(1'000'000, 1'500'000);
    return !result.was_cached;
  }));
  EXPECT_EQ(result.tag, 9U);
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 1'500'000U);
  EXPECT_EQ(files.advised, 1'500'000U) << "all of it is on its way before any is waited for";
  EXPECT_TRUE(testing::is_in_page_cache(path, 1'000'000));
  EXPECT_TRUE(testing::is_in_page_cache(path, 2'499'999));
  result = warm(1'000'000, 1'500'000);
  EXPECT_TRUE(result.was_cached);
  EXPECT_EQ(result.bytes, 0U) << "there was nothing to read";
  // Beyond the end there is nothing to do.
  EXPECT_TRUE(warm(3'000'000, 10).was_cached);
  EXPECT_EQ(warm(2'999'000, ~std::uint64_t{0}).error, 0);
}

TEST(ReadPool, AFileOfWhichOnlyTheEndsAreCachedIsRead) {
  Folder folder;
  const auto path = folder.write("data", 8 << 20);
  SKIP_UNLESS_DROPPED(folder, path);
  const FileDescriptor file(::open(path.c_str(), O_RDONLY));
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);  // the kernel adds nothing
  EXPECT_TRUE(testing::in_one_of_many_attempts([&] {
    static_cast<void>(testing::drop_from_page_cache(path));
    for (const std::uint64_t at : {0U, (8U << 20) - 1}) {
      char byte = 0;
      EXPECT_EQ(::pread(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
    }
    return is_cached(path, 0, 8 << 20) == false;
  }));
}

TEST(ReadPool, WarmsThroughShortReads) {
  Folder folder;
  const auto path = folder.write("data", 20'000);
  SKIP_UNLESS_DROPPED(folder, path);
  StutteringFiles files;
  ReadPool pool(4, 1, files);
  std::optional<ReadResult> result;
  EXPECT_TRUE(testing::in_one_of_many_attempts([&] {
    static_cast<void>(testing::drop_from_page_cache(path));
    EXPECT_TRUE(pool.warm(1, path, 0, 20'000));
    result = pool.reap(a_minute());
    return result && !result->was_cached;
  }));
  ASSERT_TRUE(result);
  EXPECT_EQ(result->error, 0);
  EXPECT_EQ(result->bytes, 20'000U);
}

TEST(ReadPool, WarmsNothingButOrdinaryFiles) {
  Folder folder;
  const auto pipe = folder.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ReadPool pool(4, 1);
  for (const auto& [path, error] : {std::pair(pipe, EINVAL), std::pair(folder.file(""), EINVAL),
                                    std::pair(folder.file("missing"), ENOENT)}) {
    ASSERT_TRUE(pool.warm(1, path, 0, 100));
    const auto result = pool.reap(a_minute());
    ASSERT_TRUE(result) << "a pipe that nobody writes to keeps nobody";
    EXPECT_EQ(result->error, error);
  }
}

int forbidden(unsigned, io_uring_params*) {
  errno = EPERM;
  return -1;
}
int missing_call(unsigned, io_uring_params*) {
  errno = ENOSYS;
  return -1;
}
int too_old(unsigned entries, io_uring_params* parameters) {
  const auto ring = static_cast<int>(::syscall(SYS_io_uring_setup, entries, parameters));
  parameters->features &= ~static_cast<unsigned>(IORING_FEAT_EXT_ARG);
  return ring;
}

// It may be set up, and not be used.
int useless(unsigned entries, io_uring_params* parameters) {
  parameters->flags |= IORING_SETUP_R_DISABLED;
  return static_cast<int>(::syscall(SYS_io_uring_setup, entries, parameters));
}

TEST(ReadRing, IsNotThereWhereTheKernelHasNoneForThisProcess) {
  const auto descriptors = entries_of("/proc/self/fd");
  EXPECT_EQ(ReadRing::try_make(8, &forbidden), nullptr);
  EXPECT_EQ(ReadRing::try_make(8, &missing_call), nullptr);
  EXPECT_EQ(ReadRing::try_make(8, &too_old), nullptr);
  EXPECT_EQ(ReadRing::try_make(8, &useless), nullptr);
  EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
}

TEST(ReadRing, HasRoomAgainWhenCancelledReadsAreOver) {
  std::array<int, 2> pipe_ends{};
  ASSERT_EQ(::pipe2(pipe_ends.data(), O_CLOEXEC), 0);
  const FileDescriptor out(pipe_ends[0]);
  const FileDescriptor in(pipe_ends[1]);
  const auto ring = ReadRing::try_make(2);
  if (!ring) GTEST_SKIP() << "this kernel has no io_uring for this process";
  std::string target(2, 'x');
  for (std::size_t at = 0; at < 2; ++at) {
    ASSERT_TRUE(ring->submit({at, out.get(), "pipe", 0, bytes(target).subspan(at, 1)}));
  }
  EXPECT_FALSE(ring->cancel(Deadline::after(milliseconds(20)))) << "nobody has written";
  EXPECT_FALSE(ring->submit({3, out.get(), "pipe", 0, bytes(target)}));
  ASSERT_EQ(::write(in.get(), "abc", 3), 3);
  std::string last(1, 'x');
  bool is_taken = false;
  for (const auto end = a_minute(); !is_taken && !end.has_passed();) {
    is_taken = ring->submit({4, out.get(), "pipe", 0, bytes(last)});
    if (!is_taken) std::this_thread::sleep_for(milliseconds(1));
  }
  ASSERT_TRUE(is_taken);
  const auto result = ring->reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->tag, 4U);
  // Before Linux 6.4, threads of the kernel read pipes, and the other cancelled read may come
  // later.
  EXPECT_TRUE(last == "b" || last == "c") << last;
}

TEST(ReadRing, ReadsNothingMoreForWhatWasCancelled) {
  Folder folder;
  const auto path = folder.write("data", 1000);
  const auto file = opened(path);
  const auto ring = ReadRing::try_make(2, nullptr, 100);
  if (!ring) GTEST_SKIP() << "this kernel has no io_uring for this process";
  const auto descriptors = entries_of("/proc/self/fd");
  std::string begun(1000, 'x');
  std::string unopened(1000, 'x');
  ASSERT_TRUE(ring->submit({1, file.get(), path, 0, bytes(begun)}));
  ASSERT_TRUE(ring->submit({2, -1, path, 0, bytes(unopened)}));
  EXPECT_TRUE(ring->cancel(a_minute()));
  EXPECT_EQ(begun.substr(100), std::string(900, 'x'));
  EXPECT_EQ(unopened, std::string(1000, 'x'));
  EXPECT_EQ(entries_of("/proc/self/fd"), descriptors);
}

TEST(ReadRing, ReadsAFileThatWasOpenedNotToWait) {
  Folder folder;
  const auto path = folder.write("data", 100'000);
  static_cast<void>(testing::drop_from_page_cache(path));  // it reads otherwise, too
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  const auto ring = ReadRing::try_make(4);
  if (!ring) GTEST_SKIP() << "this kernel has no io_uring for this process";
  std::string target(90'000, 'x');
  ASSERT_TRUE(ring->submit({1, file.get(), path, 1000, bytes(target)}));
  const auto result = ring->reap(a_minute());
  ASSERT_TRUE(result);
  EXPECT_EQ(result->error, 0);
  EXPECT_EQ(result->bytes, 90'000U);
  EXPECT_EQ(target[89'999], Folder::byte_at(90'999));
}

TEST(MakeReadEngine, TakesAPoolUnlessARingIsPreferredAndThere) {
  EXPECT_STREQ(make_read_engine({})->name(), "pread");
  const auto engine = make_read_engine({.depth = 8, .threads = 2, .prefers_ring = true});
  EXPECT_STREQ(engine->name(), ReadRing::try_make(8) ? "io_uring" : "pread");
  EXPECT_EQ(engine->capacity(), 8U);
}

}  // namespace
}  // namespace lockstep::native

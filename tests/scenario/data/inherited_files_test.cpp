// SPDX-License-Identifier: BSD-3-Clause
// Files that are open when the loader is built: what workers and their parent have of them.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdio>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using InheritedFilesTest = NothingLeftBehind;

constexpr std::size_t kNumbers = 300;
constexpr off_t kStart = 40;

struct TemporaryFile {
  TemporaryFile() {
    std::vector<std::int64_t> numbers(kNumbers);
    for (std::size_t i = 0; i < kNumbers; ++i) numbers[i] = static_cast<std::int64_t>(i);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(numbers.data()),
               static_cast<std::streamsize>(numbers.size() * sizeof(numbers[0])));
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  std::string path =
      (std::filesystem::temp_directory_path() / ("lockstep_files_" + std::to_string(::getpid())))
          .string();
};

// Goes to a place in the file and reads there, as a stream does, and not in one step.
struct Seeks {
  int file;
  off_t start = -1;  // where this process found the file

  torch::data::Example<> get(std::size_t index) {
    if (start < 0) start = ::lseek(file, 0, SEEK_CUR);
    std::int64_t number = -1;
    ::lseek(file, static_cast<off_t>(index * sizeof(number)), SEEK_SET);
    std::this_thread::sleep_for(std::chrono::microseconds(50));  // another worker's turn
    TORCH_CHECK(::read(file, &number, sizeof(number)) == sizeof(number), "cannot read the file");
    return {torch::tensor(static_cast<std::int64_t>(start)), torch::tensor(number)};
  }
  std::size_t size() const { return kNumbers; }
};

TEST_F(InheritedFilesTest, EachWorkerHasAPositionOfItsOwn) {
  const TemporaryFile temporary;
  for (const int access : {O_RDONLY, O_RDWR}) {
    const int file = ::open(temporary.path.c_str(), access | O_CLOEXEC);
    ASSERT_EQ(::lseek(file, kStart, SEEK_SET), kStart);
    {
      DataLoader loader(Seeks{file}, in_order(kNumbers), options_with(3, 10));
      std::int64_t expected = 0;
      for (auto& batch : loader) {
        for (int row = 0; row < 10; ++row) {
          ASSERT_EQ(batch.target[row].item<std::int64_t>(), expected++);
          ASSERT_EQ(batch.data[row].item<std::int64_t>(), kStart);
        }
      }
      EXPECT_EQ(::lseek(file, 0, SEEK_CUR), kStart);  // the program's
    }
    ::close(file);
  }
}

TEST_F(InheritedFilesTest, WorkersThatComeLaterBeginWhereTheFirstOnesDid) {
  const TemporaryFile temporary;
  const int file = ::open(temporary.path.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::lseek(file, kStart, SEEK_SET), kStart);
  {
    SharedCounters deaths;
    struct Dies : Seeks {
      std::atomic<int>* deaths;
      torch::data::Example<> get(std::size_t index) {
        if (index == 100 && deaths->fetch_add(1) == 0) ::raise(SIGKILL);
        return Seeks::get(index);
      }
    };
    DataLoader loader(Dies{{file}, deaths.words}, in_order(kNumbers), options_with(1, 10));
    auto it = loader.begin();
    static_cast<void>(*it);
    ::lseek(file, 0, SEEK_END);  // the program's own business
    for (; it != loader.end(); ++it) {
      ASSERT_EQ(it->data[0].item<std::int64_t>(), kStart);
    }
    EXPECT_EQ(loader.statistics().restarts, 1U);
  }
  ::close(file);
}

TEST_F(InheritedFilesTest, WhatWorkersAppendToOneFileIsAllThere) {
  const TemporaryFile temporary;
  for (const int mode : {0, O_APPEND}) {
    const int file = ::open(temporary.path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC | mode);
    Numbers dataset{100};
    dataset.before = [file](std::size_t) { TORCH_CHECK(::write(file, "x", 1) == 1); };
    {
      DataLoader loader(dataset, in_order(100), options_with(3).prepare_next_epoch(false));
      EXPECT_EQ(pass_over_errors(loader).batches, 25);
    }
    EXPECT_EQ(std::filesystem::file_size(temporary.path), 100U);
    ::close(file);
  }
}

bool can_lock(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  const bool can = ::flock(file, LOCK_EX | LOCK_NB) == 0;
  ::close(file);
  return can;
}

bool lock_description(int file) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  return ::fcntl(file, F_OFD_SETLK, &lock) == 0;
}

TEST_F(InheritedFilesTest, LockEndsWithTheProgramsDescriptor) {
  const TemporaryFile temporary;
  for (const int access : {O_RDONLY, O_WRONLY, O_RDWR}) {
    const int file = ::open(temporary.path.c_str(), access | O_CLOEXEC);
    ASSERT_EQ(::flock(file, LOCK_EX), 0);
    DataLoader loader(Numbers{400}, in_order(400), options_with(2));
    static_cast<void>(*loader.begin());
    EXPECT_FALSE(can_lock(temporary.path)) << access;
    ::close(file);
    EXPECT_TRUE(eventually([&] { return can_lock(temporary.path); })) << access;
  }
  const int file = ::open(temporary.path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_TRUE(lock_description(file));
  DataLoader loader(Numbers{400}, in_order(400), options_with(2));
  static_cast<void>(*loader.begin());
  ::close(file);
  EXPECT_TRUE(eventually([&] {
    const int other = ::open(temporary.path.c_str(), O_RDWR | O_CLOEXEC);
    const bool can = lock_description(other);
    ::close(other);
    return can;
  }));
}

}  // namespace
}  // namespace lockstep::data

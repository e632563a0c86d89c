// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/available_memory.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <limits>
#include <string>

namespace lockstep::native {
namespace {

namespace fs = std::filesystem;

// A machine made of files.
class AvailableMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "lockstep-memory-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void write_group(const std::string& path, const std::string& limit, const std::string& usage,
                   const std::string& cached) {
    write(path + "/memory.max", limit + "\n");
    write(path + "/memory.current", usage + "\n");
    write(path + "/memory.stat", "anon 1\ninactive_file " + cached + "\n");
  }
  [[nodiscard]] std::size_t available() const { return available_memory(root_); }

  fs::path root_;
};

TEST_F(AvailableMemory, NothingKnownIsNoLimit) {
  EXPECT_EQ(available(), std::numeric_limits<std::size_t>::max());
}

TEST_F(AvailableMemory, MachineAloneIsWhatTheKernelSays) {
  write("proc/meminfo", "MemTotal:  500 kB\nMemFree:  50 kB\nMemAvailable:  100 kB\n");
  EXPECT_EQ(available(), 100U * 1024);
  write("proc/self/cgroup", "0::/\n");  // the group that has no limit
  EXPECT_EQ(available(), 100U * 1024);
}

TEST_F(AvailableMemory, LimitOfAGroupAndOfThoseAboveItCounts) {
  write("proc/meminfo", "MemAvailable:  100 kB\n");
  write("proc/self/cgroup", "0::/job_7/step_0\n");
  write_group("sys/fs/cgroup/job_7/step_0", "max", "60000", "0");
  EXPECT_EQ(available(), 100U * 1024);
  write_group("sys/fs/cgroup/job_7", "70000", "60000", "0");
  EXPECT_EQ(available(), 10'000U);
  write_group("sys/fs/cgroup/job_7", "70000", "60000", "5000");  // the kernel would give these up
  EXPECT_EQ(available(), 15'000U);
  write_group("sys/fs/cgroup/job_7/step_0", "50000", "60000", "0");  // more than it may have
  EXPECT_EQ(available(), 0U);
}

TEST_F(AvailableMemory, InAContainerTheGroupStandsAtTheRoot) {
  write("proc/self/cgroup", "0::/docker/0123\n");
  write_group("sys/fs/cgroup", "9000", "1000", "0");
  EXPECT_EQ(available(), 8000U);
}

TEST_F(AvailableMemory, FirstVersionOfGroupsIsReadToo) {
  write("proc/meminfo", "MemAvailable:  100 kB\n");
  write("proc/self/cgroup", "9:name=systemd:/a\n5:cpu,memory:/job\n0::/\n");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "30000\n");
  write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "20000\n");
  write("sys/fs/cgroup/memory/job/memory.stat", "total_inactive_file 2000\n");
  EXPECT_EQ(available(), 12'000U);
}

TEST_F(AvailableMemory, ThisMachineHasSome) {
  EXPECT_GT(available_memory(), 0U);
}

}  // namespace
}  // namespace lockstep::native

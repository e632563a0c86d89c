// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <exception>
#include <fstream>
#include <functional>
#include <string>

namespace lockstep::data {

/// A number of KiB that the system keeps of this process.
inline std::int64_t memory_of_process(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::int64_t kib = 0;
    if (word == name + ":" && status >> kib) return kib;
  }
  ADD_FAILURE() << "no " << name << " in /proc/self/status";
  return 0;
}

/// By how much the memory of a process grows at most while it makes the call, whether or not that
/// throws. A child makes it, so that what came before does not count; what the call expects in vain
/// fails here, too.
inline std::int64_t peak_bytes_of(const std::function<void()>& call) {
  int ends[2];
  if (::pipe(ends) != 0) return ADD_FAILURE() << "no pipe", 0;
  const auto child = ::fork();
  if (child == 0) {
    const auto before = memory_of_process("VmRSS");
    try {
      call();
    } catch (const std::exception&) {
    }
    const auto grown = memory_of_process("VmHWM") - before;
    const bool is_told = ::write(ends[1], &grown, sizeof(grown)) == sizeof(grown);
    ::_exit(is_told && !::testing::Test::HasFailure() ? 0 : 1);
  }
  ::close(ends[1]);
  std::int64_t grown = 0;
  EXPECT_EQ(::read(ends[0], &grown, sizeof(grown)), static_cast<ssize_t>(sizeof(grown)));
  ::close(ends[0]);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  return grown * 1024;
}

/// What an error may cost, whatever a header claims: pieces of the readers, and the error itself.
#ifdef __SANITIZE_ADDRESS__  // whose shadow memory and quarantine grow with every allocation
inline constexpr std::int64_t kMostForAnError = std::int64_t{128} << 20;
#else
inline constexpr std::int64_t kMostForAnError = std::int64_t{16} << 20;
#endif

}  // namespace lockstep::data

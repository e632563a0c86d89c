// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/thread_clock.h"

#include <fcntl.h>
#include <sched.h>
#include <time.h>

#include <array>
#include <cstdio>
#include <string>

#include "native/posix/file_descriptor.h"
#include "native/posix/posix_check.h"

namespace lockstep::native {

ThreadClock thread_clock() {
  ThreadClock clock;
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  clock.on_cpu = static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
                 static_cast<std::uint64_t>(time.tv_nsec);
  const FileDescriptor file(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return clock;
  std::array<char, 96> text{};
  if (::read(file.get(), text.data(), text.size() - 1) <= 0) return clock;
  unsigned long long on_cpu = 0;
  unsigned long long delayed = 0;
  if (std::sscanf(text.data(), "%llu %llu", &on_cpu, &delayed) == 2) clock.delayed = delayed;
  return clock;
}

void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    throw_errno("binding a data worker to CPU " + std::to_string(cpu) + " failed");
  }
}

}  // namespace lockstep::native

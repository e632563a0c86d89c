// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/owning_process.h"

#include <pthread.h>

#include <atomic>

namespace lockstep::native {

std::uint64_t OwningProcess::generation() noexcept {
  static std::atomic<std::uint64_t> forks{0};
  [[maybe_unused]] static const int is_counting =
      ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return forks.load(std::memory_order_relaxed);
}

}  // namespace lockstep::native

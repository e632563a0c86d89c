// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace lockstep::native {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) &&
              std::atomic<std::uint32_t>::is_always_lock_free);

// Without FUTEX_PRIVATE_FLAG: the word lies in memory that other processes map too.
long futex(const std::atomic<std::uint32_t>& word, int op, std::uint32_t value,
           const timespec* limit) {
  return ::syscall(SYS_futex, reinterpret_cast<const std::uint32_t*>(&word), op, value, limit,
                   nullptr, 0);
}

}  // namespace

void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                std::chrono::nanoseconds limit) {
  if (limit <= std::chrono::nanoseconds::zero()) return;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  timespec relative{};
  relative.tv_sec = static_cast<time_t>(seconds.count());
  relative.tv_nsec = static_cast<long>((limit - seconds).count());
  futex(word, FUTEX_WAIT, expected, &relative);  // EAGAIN, EINTR and ETIMEDOUT all mean: look again
}

void futex_wake_one(const std::atomic<std::uint32_t>& word) {
  futex(word, FUTEX_WAKE, 1, nullptr);
}

void futex_wake_all(const std::atomic<std::uint32_t>& word) {
  futex(word, FUTEX_WAKE, INT_MAX, nullptr);
}

}  // namespace lockstep::native

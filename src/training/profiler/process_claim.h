// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <unistd.h>

#include <atomic>

namespace lockstep::training {

/// Kineto is one for the process. The first object has it; a fork begins anew.
///
/// Thread-safety: any thread.
/// Owns: the claim, if it has it.
class ProcessClaim {
 public:
  ProcessClaim() : before_(owner()) {
    has_it_ = before_ != ::getpid() && owner().compare_exchange_strong(before_, ::getpid());
  }
  ~ProcessClaim() {
    pid_t own = ::getpid();
    if (has_it_) owner().compare_exchange_strong(own, 0);
  }
  ProcessClaim(const ProcessClaim&) = delete;
  ProcessClaim& operator=(const ProcessClaim&) = delete;

  [[nodiscard]] bool has_it() const noexcept { return has_it_; }

 private:
  static std::atomic<pid_t>& owner() {
    static std::atomic<pid_t> process{0};
    return process;
  }

  pid_t before_;
  bool has_it_ = false;
};

}  // namespace lockstep::training

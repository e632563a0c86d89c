// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/start_lock.h"

namespace lockstep {

std::unique_lock<std::mutex> lock_gloo_start() {
  static std::mutex mutex;
  return std::unique_lock(mutex);
}

}  // namespace lockstep

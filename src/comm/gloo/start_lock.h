// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <mutex>

namespace lockstep {

/// Held around every call that starts work, of whichever group in this process: c10d notes them all
/// in one flight recorder, which adds a group to its map without a lock (LibTorch 2.11), so that
/// two groups that begin in two threads would break it.
[[nodiscard]] std::unique_lock<std::mutex> lock_gloo_start();

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace lockstep::native {

/// Sleeps while `word` holds `expected`, for at most `limit`. May return early for no reason:
/// callers loop on their own condition and deadline. Works between processes that share the memory
/// of `word`.
///
/// Blocks: the calling thread, for at most `limit`.
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                std::chrono::nanoseconds limit);

/// Wakes one of the threads and processes that sleep on `word`.
void futex_wake_one(const std::atomic<std::uint32_t>& word);

/// Wakes all threads and processes that sleep on `word`.
void futex_wake_all(const std::atomic<std::uint32_t>& word);

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "comm/gloo/channels.h"
#include "native/posix/owning_process.h"

namespace lockstep {

/// Looks for word of a rank that left while others use the store, for whoever must not wait: a
/// thread asks the store, and a later look finds the answer.
///
/// Thread-safety: any thread.
class GlooWatch {
 public:
  explicit GlooWatch(GlooChannels::Store store) : store_(std::move(store)) {}
  /// Blocks: for an answer that is on its way, not for long.
  ~GlooWatch();
  GlooWatch(const GlooWatch&) = delete;
  GlooWatch& operator=(const GlooWatch&) = delete;

  /// "rank 1 gave up: ...", or nothing. Never waits.
  [[nodiscard]] std::string look();

 private:
  void ask();
  void take_answer();

  GlooChannels::Store store_;
  std::mutex mutex_;
  std::string word_;
  std::unique_ptr<std::thread> thread_;  // asks; its end is near once the answer is there
  std::future<std::string> answer_;
  std::chrono::steady_clock::time_point last_question_;
  bool is_store_gone_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep

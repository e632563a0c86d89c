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

/// Polls the store for the reason of a rank that aborted, for callers that must not wait: a thread
/// asks the store, and a later poll finds the answer.
///
/// Thread-safety: any thread.
class GlooPeerWatch {
 public:
  explicit GlooPeerWatch(const GlooChannels& channels)
      : store_(channels.store()), own_rank_(channels.rank()) {}
  /// Blocks: for an answer that is on its way, not for long.
  ~GlooPeerWatch();
  GlooPeerWatch(const GlooPeerWatch&) = delete;
  GlooPeerWatch& operator=(const GlooPeerWatch&) = delete;

  /// "rank 1 gave up: ...", or nothing. Never waits.
  [[nodiscard]] std::string poll();

 private:
  void ask();
  void take_answer();

  GlooChannels::Store store_;
  int own_rank_;
  std::mutex mutex_;
  std::string abort_reason_;
  std::unique_ptr<std::thread> thread_;  // asks the store, and ends soon after the answer
  std::future<std::string> answer_;
  std::chrono::steady_clock::time_point last_question_;
  bool is_store_gone_ = false;
  native::OwningProcess owner_;
};

}  // namespace lockstep

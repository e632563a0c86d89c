// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "concurrency/deadline.h"

namespace lockstep {

struct GlooMessageState;

/// What the operations of a group over gloo work with: c10d's groups, which do the work in threads
/// of their own and are asked whether it is done, and the store in which ranks leave word.
///
/// Fingerprints are announced ahead and data moves for the oldest collective only, so that each has
/// a group of its own, as over MPI.
class GlooChannels {
 public:
  using Group = c10::intrusive_ptr<c10d::ProcessGroupGloo>;
  using Store = c10::intrusive_ptr<c10d::Store>;

  /// Collective. Throws: `LaunchError` naming ranks that do not come; c10d's errors where the store
  /// or a connection breaks.
  GlooChannels(Store store, const LaunchEnvironment& environment,
               std::chrono::milliseconds timeout);
  ~GlooChannels();
  GlooChannels(const GlooChannels&) = delete;
  GlooChannels& operator=(const GlooChannels&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }
  [[nodiscard]] const Store& store() const noexcept { return store_; }
  [[nodiscard]] c10d::ProcessGroupGloo& fingerprints() const { return *fingerprints_; }
  [[nodiscard]] c10d::ProcessGroupGloo& data() const { return *data_; }
  [[nodiscard]] const Group& messages() const noexcept { return messages_; }
  /// The latest message from or to a rank under a tag.
  [[nodiscard]] std::shared_ptr<GlooMessageState>& latest_message(int peer, int tag, bool is_sent) {
    return latest_[{peer, tag, is_sent}];
  }
  std::uint64_t next_collective() noexcept { return collectives_++; }

  // --- word in the store; never waits for long, never throws ---
  void say_leaving(const std::string& reason) noexcept;
  void say_waiting(std::uint64_t collective) noexcept;
  /// "rank 1 gave up: ...", from time to time; empty when nobody did, or the store is silent.
  [[nodiscard]] std::string who_left();
  /// The same, now.
  [[nodiscard]] std::string who_left_now();
  /// The ranks that have not said that they wait for this collective.
  [[nodiscard]] std::string late_ranks(std::uint64_t collective);

 private:
  [[nodiscard]] std::optional<std::string> ask(std::function<std::string()> question);

  int rank_;
  int size_;
  Store store_;
  Group fingerprints_, data_, messages_;
  std::map<std::tuple<int, int, bool>, std::shared_ptr<GlooMessageState>> latest_;
  std::uint64_t collectives_ = 0;
  std::chrono::steady_clock::time_point last_look_ = std::chrono::steady_clock::now();
  bool is_store_silent_ = false;
};

/// gloo's own time-outs must never come before ours: each call says this.
constexpr std::chrono::hours kGlooTimeout{24 * 7};

/// What a rank that gave up left in the store, else nothing. Blocks: as long as the store is
/// silent.
[[nodiscard]] std::string read_word_of_leaving(c10d::Store& store);

/// Whether `work` is done. Throws `OperationFailure` where it failed, which is when a connection
/// broke.
[[nodiscard]] bool is_gloo_work_done(GlooChannels& channels, c10d::Work& work);

}  // namespace lockstep

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
/// of their own and are asked whether it is done, and the store, in which a rank that aborts leaves
/// its reason.
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

  // --- notices in the store; these functions never wait for long and never throw ---
  void announce_abort(const std::string& reason) noexcept;
  /// Where a rank has aborted: returns when every rank knows the reason, or a second has passed.
  /// For the rank that serves the store, which the others cannot ask when it is gone.
  void let_others_hear() noexcept;
  void announce_waiting(std::uint64_t collective) noexcept;
  /// "rank 1 gave up: ..."; empty when no rank has aborted, or the store is silent. Asks the store
  /// only if some time has passed since the last question, and returns nothing otherwise.
  [[nodiscard]] std::string poll_abort_reason();
  /// The same, but asks the store at once.
  [[nodiscard]] std::string abort_reason();
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
  std::chrono::steady_clock::time_point last_poll_ = std::chrono::steady_clock::now();
  bool is_store_silent_ = false;
};

/// The time-out that each call gives gloo, so that its own never comes before ours.
constexpr std::chrono::hours kGlooTimeout{24 * 7};

/// The reason that a rank that aborted left in the store, else nothing. Notes in the store that
/// this rank knows it. Blocks: as long as the store is silent.
[[nodiscard]] std::string read_abort_reason(c10d::Store& store, int own_rank);

/// Whether `work` is done. Throws `OperationFailure` where it failed, which is when a connection
/// broke.
[[nodiscard]] bool is_gloo_work_done(GlooChannels& channels, c10d::Work& work);

}  // namespace lockstep

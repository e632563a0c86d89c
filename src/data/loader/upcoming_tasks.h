// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "data/loader/upcoming.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// The samples that workers will claim next, as one of them sees it: of the batches that are given
/// out. Each is told once. That a batch is taken back meanwhile does not matter: what is told helps
/// to be faster, and decides nothing.
///
/// Runs in the worker only. Thread-safety: none; each worker has one.
class UpcomingTasks {
 public:
  enum class Whose {
    Shared,  ///< of every so many samples one, so that all workers together are told all
    Own,     ///< of batches that only this worker builds (`TaskChannel::worker`)
  };

  UpcomingTasks(workers::TaskChannel& channel, std::size_t worker, Whose whose)
      : channel_(channel), worker_(worker), whose_(whose) {}

  /// Tells what follows place `from` of a batch that this worker has claimed some of: the samples
  /// number `skip` to `most`, as far as they were not told before.
  void tell(std::size_t slot, std::size_t from, std::size_t skip, std::size_t most,
            const UseUpcoming& use);

 private:
  struct Upcoming {
    std::uint64_t sequence = 0;
    std::size_t slot = 0;
    std::size_t items = 0;
  };

  void look(std::uint64_t from);
  [[nodiscard]] bool is_still(const Upcoming& task) const;
  [[nodiscard]] bool is_ours(const Upcoming& task, std::size_t place) const;

  workers::TaskChannel& channel_;
  std::size_t worker_;
  Whose whose_;
  std::vector<Upcoming> tasks_;
  // The first sample that has not been told.
  std::uint64_t sequence_ = 0;
  std::size_t place_ = 0;
};

}  // namespace lockstep::data::detail

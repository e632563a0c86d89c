// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/loader/batch_source.h"
#include "workers/task_channel.h"
#include "workers/worker_record.h"

namespace lockstep::data::detail {

/// What the rank and its workers know of a loader. It does not change once the workers are there.
/// Threads that are stuck keep it alive.
struct WorkerJob {
  std::shared_ptr<workers::TaskChannel> channel;
  SampleSource source;
  BatchFacts facts;
  std::uint64_t seed = 0;
  std::function<void(std::size_t)> init;
  std::vector<int> cpus;
  bool is_own_process = true;

  [[nodiscard]] bool is_iterable() const { return source.open != nullptr; }
  /// Samples are begun before they are wanted: so it is settled who builds a batch.
  [[nodiscard]] bool is_async() const { return facts.in_flight != 0; }
  [[nodiscard]] std::size_t worker_of(std::uint64_t sequence) const {
    const auto workers = channel->workers();
    const auto first = static_cast<std::size_t>(sequence % workers);
    for (std::size_t step = 0; step < workers; ++step) {
      if (const auto worker = (first + step) % workers; !is_lost(worker)) return worker;
    }
    return first;
  }
  /// Whether a worker has ended and is not replaced.
  [[nodiscard]] bool is_lost(std::size_t worker) const {
    const auto state = channel->table().workers[worker].state.load(std::memory_order_acquire);
    return state == workers::WorkerState::GivenUp || state == workers::WorkerState::StartFailed;
  }
};

}  // namespace lockstep::data::detail

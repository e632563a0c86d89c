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
};

}  // namespace lockstep::data::detail

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>

#include <cstddef>
#include <cstdint>

#include "workers/task.h"

/// What the rank and its workers tell each other about a batch, in the words that a task has for
/// its caller.
namespace lockstep::data::detail {

/// The words of a task. An iterable dataset has its shard there, others have what follows the
/// batch.
enum TaskWord : std::size_t { kEpoch, kShard, kBehind = kShard };
static_assert(kBehind + DataLoaderOptions::kReplacements <= workers::Task::kWords);

/// The result of an iterable dataset's batch. It is known when all samples are there and not yet a
/// batch.
struct StreamResult {
  static constexpr int kShift = 32;

  std::size_t samples = 0;
  std::size_t thrown = 0;  ///< passed over between these

  [[nodiscard]] std::uint64_t word() const { return samples | std::uint64_t{thrown} << kShift; }
  [[nodiscard]] static StreamResult of(std::uint64_t word) {
    return {word & 0xffff'ffffU, word >> kShift};
  }
};

/// `kShard` holds the pass too: each opens its shards again.
[[nodiscard]] constexpr std::uint64_t shard_word(std::uint64_t pass_id, std::size_t shard) {
  return pass_id << 20 | shard;
}
[[nodiscard]] constexpr std::size_t shard_of_word(std::uint64_t word) {
  return static_cast<std::size_t>(word & ((1U << 20) - 1));
}

}  // namespace lockstep::data::detail

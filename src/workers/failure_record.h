// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "workers/failure.h"

namespace lockstep::workers {

/// A `Failure` as it lies in shared memory, with its texts cut to what there is room for.
struct FailureRecord {
  static constexpr std::uint64_t kIsWritten = ~std::uint64_t{0};

  FailureKind kind;
  std::uint32_t worker;
  std::int32_t pid;
  std::int32_t wait_status;
  std::uint64_t position;
  std::int64_t item;
  std::atomic<std::uint64_t> sequence;  // + 1: the task it belongs to; of a note also kIsWritten
  std::array<char, 192> type;
  std::array<char, 1600> message;
};

}  // namespace lockstep::workers

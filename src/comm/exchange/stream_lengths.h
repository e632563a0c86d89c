// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/collective/collective.h"
#include "comm/exchange/transport.h"

namespace lockstep {

/// The lengths of streams that only the two ranks of each know: every rank tells them to all
/// others, so that all notice where two do not fit, and go through as many chunks.
class StreamLengths {
 public:
  /// An exchange with all ranks. This object outlives it.
  [[nodiscard]] Exchange gather(const Streams& own, int world_size);
  /// After that exchange: the longest stream of all ranks. Throws: `OperationFailure` where a rank
  /// expects another length than is sent.
  [[nodiscard]] std::size_t check();

 private:
  [[nodiscard]] std::span<std::uint64_t> row(std::size_t rank);

  std::vector<std::uint64_t> own_, all_;
};

}  // namespace lockstep

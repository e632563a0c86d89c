// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::data {

/// Where a loader stands: the same on all ranks that have received the same number of batches.
struct LOCKSTEP_API LoaderState {
  std::uint64_t seed = 0;
  std::int64_t epoch = 0;
  std::uint64_t position = 0;  ///< samples of the epoch that all ranks have consumed, in order
  std::uint64_t dataset_size = 0;
  std::uint64_t fingerprint = 0;  ///< of the sampler: differs where the order would

  /// At most 128 bytes.
  [[nodiscard]] std::string to_bytes() const;
  /// Throws: `c10::Error` when these are not the bytes of a state.
  [[nodiscard]] static LoaderState from_bytes(std::string_view bytes);
};

}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::data {

/// How far a loader has come, for a checkpoint. The same on all ranks, and valid for every number
/// of ranks and workers afterwards; whatever was being prepared is made again.
///
/// Thread-safety: a value.
struct LOCKSTEP_API LoaderState {
  /// The longest string that `to_bytes` returns.
  static constexpr std::size_t kMaxBytes = 128;

  std::uint64_t seed = 0;          ///< the sampler's
  std::int64_t epoch = 0;          ///< the epoch under way
  std::uint64_t position = 0;      ///< samples of the epoch's order that all ranks have consumed
  std::uint64_t dataset_size = 0;  ///< samples of the dataset
  /// Stands for what else decides the samples: how their order is made, and by which seed they
  /// draw.
  std::uint64_t fingerprint = 0;

  /// One printable line of at most `kMaxBytes` characters without blanks or quotes, which fits into
  /// any string of a checkpoint: "lockstep-loader-1:", the five numbers in hexadecimal, ":", and a
  /// CRC-32 of all that.
  /// Throws: `c10::Error` when `epoch` is negative.
  [[nodiscard]] std::string to_bytes() const;

  /// The state that `to_bytes` was called on.
  /// Throws: `c10::Error` for anything that `to_bytes` has not made, with what is wrong with it.
  [[nodiscard]] static LoaderState from_bytes(std::string_view bytes);

  /// Whether all five numbers are the same.
  friend bool operator==(const LoaderState&, const LoaderState&) = default;
};

}  // namespace lockstep::data

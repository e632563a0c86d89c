// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

#include "data/samples/sample_layout.h"

namespace lockstep::data::detail {

/// A value in memory with its form in front, so that another process can read it.
///
/// Owns: nothing; the value must outlive it.
class ValueBytes {
 public:
  /// Throws: as `ValueLayout::of_whole`.
  explicit ValueBytes(const Value& value);

  [[nodiscard]] std::size_t size() const noexcept { return leaves_offset_ + leaves_bytes_; }
  /// Into `size()` bytes.
  void write(std::byte* memory) const;
  /// What was written there; its tensors lie in `memory`, texts and bytes are copied.
  /// Throws: `c10::Error` when that does not fit `bytes`.
  [[nodiscard]] static Value read(std::byte* memory, std::size_t bytes, const MakeTensor& make);

 private:
  const Value& value_;
  std::size_t leaves_bytes_ = 0;
  ValueLayout layout_;
  std::string form_;
  std::size_t leaves_offset_;
};

}  // namespace lockstep::data::detail

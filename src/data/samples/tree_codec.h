// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

#include "data/samples/sample_layout.h"

namespace lockstep::data::detail {

/// Writes a tree into memory with its structure in front, so that another process can read it.
///
/// Owns: nothing; the tree must outlive it.
class TreeCodec {
 public:
  /// Throws: as `SampleLayout::of_whole`.
  explicit TreeCodec(const SampleTree& tree);

  [[nodiscard]] std::size_t size() const noexcept { return leaves_offset_ + leaves_bytes_; }
  /// Fills `size()` bytes.
  void write(std::byte* memory) const;
  /// What was written there; its tensors lie in `memory`, strings and bytes are copied.
  /// Throws: `c10::Error` when that does not fit `bytes`.
  [[nodiscard]] static SampleTree read(std::byte* memory, std::size_t bytes,
                                       const MakeTensor& make);

 private:
  const SampleTree& tree_;
  std::size_t leaves_bytes_ = 0;
  SampleLayout layout_;
  std::string structure_;
  std::size_t leaves_offset_;
};

}  // namespace lockstep::data::detail

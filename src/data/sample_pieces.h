// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/value.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "workers/shared_memory_channel.h"

namespace lockstep::data::detail {

/// Whether the sample, read back from a piece, is the same for whoever makes a batch of it. A
/// collate function (`for_collate`) may ask for more than sizes and numbers: strides decide in
/// which order a sum is taken.
[[nodiscard]] bool can_be_passed_on(const Value& sample, bool for_collate);

/// The samples of a batch on their way from the workers that fetch them to the one that makes the
/// batch of them, each in a piece of the ring.
///
/// Owns: this process's views of the pieces, together with the tensors in them.
class SamplePieces {
 public:
  SamplePieces(workers::SharedMemoryChannel& channel, std::size_t slot)
      : channel_(channel), slot_(slot) {}
  ~SamplePieces() { let_go(); }
  SamplePieces(const SamplePieces&) = delete;
  SamplePieces& operator=(const SamplePieces&) = delete;

  /// Throws: `std::system_error` when the memory cannot be had.
  void put(std::size_t position, const Value& sample);
  /// Nothing where nobody put it. What the caller changes in it, nobody else sees: should it die,
  /// another takes the sample as it was.
  [[nodiscard]] std::optional<Value> take(std::size_t position);
  /// Gives the memory of all pieces back. Tensors that are still held keep their contents.
  void free();

 private:
  class View;

  void let_go();

  workers::SharedMemoryChannel& channel_;
  std::size_t slot_;
  std::vector<std::shared_ptr<View>> views_;
};

}  // namespace lockstep::data::detail

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/comm/types.h>

#include <cstddef>
#include <span>

namespace lockstep {

/// Whether `reduce_ranks` handles this combination.
[[nodiscard]] bool can_reduce(at::ScalarType dtype, ReduceOp op);

/// Combines `inputs` in their order (so: in rank order), element by element, and writes the result
/// to every output. Half, BFloat16 and the 8-bit floats are accumulated in float and rounded once;
/// integers wrap around. The result does not depend on the machine's vector width, nor on how a
/// caller cuts a tensor into pieces.
///
/// Shapes: all pointers refer to `elements` elements. An output may be one of the inputs, but not
/// overlap one partly.
void reduce_ranks(at::ScalarType dtype, ReduceOp op, std::span<const void* const> inputs,
                  std::span<void* const> outputs, std::size_t elements);

// The same in steps, for inputs that are not all in reach at once: the intermediate result is kept
// in the type in which sums are accumulated, so that the final result has the same bits.

/// The size of one element of an intermediate result.
[[nodiscard]] std::size_t accumulator_bytes(at::ScalarType dtype);
/// `before`: the intermediate result of all earlier ranks; null if the inputs are those of the
/// first ranks. `after`: receives the new one; may be `before`.
void reduce_some_ranks(at::ScalarType dtype, ReduceOp op, const void* before,
                       std::span<const void* const> inputs, void* after, std::size_t elements);
/// `inputs`: those of the last ranks of `world_size`.
void reduce_last_ranks(at::ScalarType dtype, ReduceOp op, const void* before,
                       std::span<const void* const> inputs, void* output, std::size_t elements,
                       int world_size);

}  // namespace lockstep

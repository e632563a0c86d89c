// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/samples/sample_tree.h>

#include <cstddef>
#include <optional>

#include "workers/overflow_blocks.h"

/// Samples of a batch on their way from the workers that fetch them to the one that makes the batch
/// of them, each in an overflow block.
namespace lockstep::data::detail {

/// Whether the worker that takes the sample gets it as it is. A collate function (`for_collate`)
/// may see more of it than sizes and numbers: strides decide in which order a sum is taken, and
/// parts that share memory change together.
[[nodiscard]] bool can_be_passed_on(const SampleTree& sample, bool for_collate);

/// Throws: `std::system_error` when the memory cannot be had; whatever it throws, nothing is there
/// then.
void put_sample(workers::OverflowBlocks& blocks, std::size_t slot, std::size_t position,
                const SampleTree& sample);
/// Returns a copy, so that the sample is still there for the next worker if this one dies; nothing
/// where no worker has put it.
[[nodiscard]] std::optional<SampleTree> take_sample(workers::OverflowBlocks& blocks,
                                                    std::size_t slot, std::size_t position);

}  // namespace lockstep::data::detail

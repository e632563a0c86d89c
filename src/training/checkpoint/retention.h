// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/checkpointer.h>

#include <cstdint>
#include <set>
#include <vector>

#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// Which generations of these, all of which count, are kept: the newest, those of every so many
/// steps, and the best.
[[nodiscard]] std::set<std::int64_t> kept_generations(const std::vector<CheckpointRecord>& records,
                                                      const CheckpointerOptions& options);

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>

#include "fuzz/fuzz_target.h"

namespace lockstep::fuzz {

/// The input of one run: a seed with a few changes, or as it is. Depends on the target's seeds, the
/// number and the run only, so that a run can be repeated by itself.
Bytes mutated_input(const FuzzTarget& target, std::uint64_t number, std::uint64_t run);

}  // namespace lockstep::fuzz

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/inference/ensemble_options.h>
#include <lockstep/inference/member.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::inference::detail {

/// The most `EnsembleOptions::queue` of an ensemble of so many members. Each tensor of a slot is a
/// mapping of its own, of which the kernel lets a process have 65530.
[[nodiscard]] std::int64_t most_requests(std::size_t members);

/// Throws: `c10::Error` saying which option is wrong, and what would be right.
void check_members_and_options(const std::vector<Member>& members, const EnsembleOptions& options);

}  // namespace lockstep::inference::detail

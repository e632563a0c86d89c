// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace lockstep::training {

/// Rank 0's text on all ranks. Collective.
[[nodiscard]] std::string broadcast_text(ProcessGroup& group, std::string text);

/// What went wrong on any rank: the text of the lowest of them, with its number where there are
/// several ranks; empty: nothing. The same on all ranks. `own`: this rank's. Collective.
[[nodiscard]] std::string first_failure(ProcessGroup& group, const std::string& own);

/// Runs it on this rank, and returns what it threw as a text; empty: nothing.
[[nodiscard]] std::string failure_of(const std::function<void()>& action);

}  // namespace lockstep::training

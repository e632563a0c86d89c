// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <memory>

#include "comm/group/comm_backend.h"

namespace lockstep {

/// A world of one: every collective is complete when it returns, so that programs need no second
/// path.
[[nodiscard]] std::unique_ptr<CommBackend> make_single_backend(GroupContext& group);

}  // namespace lockstep

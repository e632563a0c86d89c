// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>

#include <memory>
#include <string>

#include "collectives.h"

namespace bench {

/// A group of Lockstep as a side. `is_registered`: its tensors lie in the group's memory.
[[nodiscard]] std::unique_ptr<Side> make_lockstep_side(
    std::string name, std::shared_ptr<lockstep::ProcessGroup> group, bool is_registered);

}  // namespace bench

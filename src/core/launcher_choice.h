// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>
#include <vector>

#include "core/launchers.h"

namespace lockstep {

/// Looks up variables as this process got them when it began, then as its parent did, and so on.
using Ancestors = std::function<std::vector<Lookup>()>;

/// The launcher whose word counts: the innermost, which is the one whose variables are the newest
/// in this process and its ancestors. `LOCKSTEP_LAUNCHER` chooses another. Null: this process runs
/// standalone. `ancestors` is called only where several launchers left variables.
///
/// Throws: `LaunchError` with what both say, where that differs and nothing shows which is inside,
/// and where the innermost started one rank alone inside a world of several.
[[nodiscard]] const LauncherVariables* choose_launcher(const Lookup& own,
                                                       const Ancestors& ancestors);

/// The ancestors of this process, as far as their environment can be read (Linux: /proc).
[[nodiscard]] std::vector<Lookup> process_ancestors();

}  // namespace lockstep

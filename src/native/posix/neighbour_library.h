// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace lockstep::native {

/// Loads the library `name` from the folder of the library that has the function `symbol`, until
/// the process ends. Libraries that are loaded later and need one of this name get it, wherever
/// they lie themselves. False where there is none, or where something that it needs is missing.
///
/// Thread-safety: any thread.
bool load_neighbour_library(const char* symbol, const char* name);

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace lockstep::native {

/// What the environment says; empty: nothing, as where a variable is set to nothing.
/// Thread-safety: any thread, while none changes the environment.
[[nodiscard]] std::string environment_variable(const char* name);

}  // namespace lockstep::native

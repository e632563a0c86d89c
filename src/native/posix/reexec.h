// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::native {

/// Replaces the calling process by a fresh run of the same program. The new run has the same
/// environment without the variables of a launcher of ranks, and with `variable` ("NAME=value").
/// Descriptor `keep` stays open.
///
/// Throws: `std::system_error` when the program cannot be run.
[[noreturn]] void reexec_self(const std::string& variable, int keep);

/// Whether a variable tells a process which rank of which job it is.
[[nodiscard]] bool is_launch_variable(std::string_view assignment);

}  // namespace lockstep::native

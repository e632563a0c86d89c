// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::native {

/// Replaces the calling process by a fresh run of the same program, with the environment that it
/// has but for what a launcher of ranks has put there, and with `variable` ("NAME=value") added.
/// Descriptor `keep` stays open in it.
///
/// Throws: `std::system_error` when the program cannot be run.
[[noreturn]] void run_program_again(const std::string& variable, int keep);

/// Whether a variable tells a process which rank of which job it is.
[[nodiscard]] bool is_launch_variable(std::string_view assignment);

}  // namespace lockstep::native

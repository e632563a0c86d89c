// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <exception>
#include <string>

namespace lockstep {

/// What an exception says, of a `c10::Error` without its backtrace. `otherwise`: of an exception
/// that is no `std::exception`.
[[nodiscard]] std::string exception_text(const std::exception_ptr& error, const char* otherwise);

}  // namespace lockstep

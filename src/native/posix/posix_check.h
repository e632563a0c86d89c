// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cerrno>
#include <string>
#include <system_error>

namespace lockstep::native {

/// What an `errno` means, in words.
[[nodiscard]] inline std::string error_text(int error) {
  return std::generic_category().message(error);
}

/// Throws `std::system_error` for the current `errno`; `what` says which call on which object
/// failed.
///
/// The POSIX part of this room holds no torch, so that sanitizers see all of it; the rooms above
/// translate.
[[noreturn]] inline void throw_errno(const std::string& what, int error = errno) {
  throw std::system_error(error, std::generic_category(), what);
}

}  // namespace lockstep::native

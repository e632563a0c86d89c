// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// Which version of Lockstep this is. CMake reads it here.
///
/// Thread-safety: any thread, any time.

#include <lockstep/core/export.h>

#include <string_view>

/// Grows where programs must change.
#define LOCKSTEP_VERSION_MAJOR 0
/// Grows with what is new; before 1.0 also where programs must change.
#define LOCKSTEP_VERSION_MINOR 1
/// Grows with corrections.
#define LOCKSTEP_VERSION_PATCH 0

/// All three as one number, for `#if`: 10000 times the first, 100 times the second, and the third.
#define LOCKSTEP_VERSION \
  (LOCKSTEP_VERSION_MAJOR * 10000 + LOCKSTEP_VERSION_MINOR * 100 + LOCKSTEP_VERSION_PATCH)

namespace lockstep {

/// The version of the library that the program runs with: "0.1.0". With a shared library that may
/// be another one than it was compiled with.
[[nodiscard]] LOCKSTEP_API std::string_view version() noexcept;

}  // namespace lockstep

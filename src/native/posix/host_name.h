// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace lockstep::native {

/// As the system has it.
[[nodiscard]] std::string host_name();

/// A number that processes of one host share, and those of different hosts do not: a hash of the
/// host's name and of what the kernel drew when it started.
[[nodiscard]] std::int64_t host_hash();

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <filesystem>

namespace lockstep::native {

/// Bytes that this process could still have: what the kernel says is available, or less where a
/// control group (version 1 or 2) of the process or one above it is nearer to its limit. The
/// largest number where nothing is known. `root` is where /proc and /sys are, for tests.
[[nodiscard]] std::size_t available_memory(const std::filesystem::path& root = "/");

}  // namespace lockstep::native

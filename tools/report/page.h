// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <filesystem>
#include <string>

namespace report {

/// A page of HTML about the run in `folder`. It needs no other file and runs no script.
/// Throws: `std::runtime_error` for a folder without files of a run, and for files that cannot be
/// read.
[[nodiscard]] std::string page_of(const std::filesystem::path& folder);

}  // namespace report

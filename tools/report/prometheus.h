// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "run_data.h"

namespace report {

/// A line of a file for Prometheus's textfile collector, as it stands there.
struct Sample {
  std::string name;
  std::string labels;
  std::string value;
};

/// Throws: `std::runtime_error` for a file that cannot be read.
[[nodiscard]] std::vector<Sample> read_prometheus(const std::filesystem::path& path,
                                                  FileNote& note);

}  // namespace report

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "run_data.h"

namespace report {

/// A line of a folder of checkpoints: docs/checkpointing.md has the format.
struct Checkpoint {
  std::int64_t generation = 0;
  std::int64_t step = 0;
  std::int64_t world_size = 0;
  std::string metric;   ///< empty: none
  std::string failure;  ///< empty: it counts
  double bytes = 0;
  std::size_t files = 0;
  bool is_there = false;  ///< its folder is
};

/// The lines whose checksum is right.
/// Throws: `std::runtime_error` for a file that cannot be read.
[[nodiscard]] std::vector<Checkpoint> read_manifest(const std::filesystem::path& path,
                                                    FileNote& note);

}  // namespace report

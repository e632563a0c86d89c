// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace lockstep::data {

/// Where a part of a sample is within it, as messages write it: `image.1.mask`. Empty: the whole.
[[nodiscard]] inline std::string path_below(const std::string& where, const std::string& part) {
  return where.empty() ? part : where + "." + part;
}

[[nodiscard]] inline std::string name_of_part(const std::string& where) {
  return where.empty() ? "the sample" : "the sample's " + where;
}

}  // namespace lockstep::data

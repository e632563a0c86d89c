// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/ArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::training {

constexpr std::size_t kListedNames = 5;  ///< as many as an error lists

/// "a, b, c, d, e and 3 more"
[[nodiscard]] std::string list_of(const std::vector<std::string>& texts);
/// "[2, 3]"
[[nodiscard]] std::string text_of(c10::IntArrayRef shape);

}  // namespace lockstep::training

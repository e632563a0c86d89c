// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace lockstep::workers {

/// Copies what there is room for, with a zero at the end.
template <std::size_t Size>
void copy_text(std::array<char, Size>& to, std::string_view text) {
  const auto length = text.copy(to.data(), Size - 1);
  to[length] = '\0';
}

}  // namespace lockstep::workers

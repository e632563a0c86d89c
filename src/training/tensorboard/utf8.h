// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>
#include <string_view>

namespace lockstep::training {

/// How many bytes a character of UTF-8 has that begins here; 0: there is none.
[[nodiscard]] std::size_t utf8_character(std::string_view text) noexcept;

/// Whether all of it is UTF-8. Readers of event files refuse a record with a tag that is not.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// Bytes that are no UTF-8 are replaced by U+FFFD.
[[nodiscard]] std::string as_utf8(std::string_view bytes);

}  // namespace lockstep::training

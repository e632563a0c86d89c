// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::training {

/// Appends the time in UTC as RFC 3339 has it, with microseconds: 2026-01-31T12:00:00.000001Z.
/// `nanoseconds`: since 1970.
void append_time(std::string& text, std::int64_t nanoseconds);

/// Appends a message so that it is one line and changes no terminal: \n, \r, \t, and \x1b for other
/// control characters.
void append_escaped(std::string& text, std::string_view message);

/// "1 line was lost here: REASON"
[[nodiscard]] std::string lost_text(std::uint64_t lines, const std::string& reason);

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace report {

/// Text of a file for HTML, in elements and in attributes: whatever it has in it, it stays text.
/// What is no UTF-8, and control characters, are replaced.
[[nodiscard]] std::string escaped(std::string_view text);

/// "0.3125", "1.2e-05": for people.
[[nodiscard]] std::string number(double value);
/// With all digits that matter.
[[nodiscard]] std::string exact_number(double value);
/// With one digit after the point: places in a picture.
[[nodiscard]] std::string place(double value);
/// "1.5 GiB".
[[nodiscard]] std::string bytes(double value);
/// "12:30", "1:02:03", "4 d 1:02:03".
[[nodiscard]] std::string duration(double seconds);
/// "2026-01-31 12:00:00 UTC".
[[nodiscard]] std::string date(double seconds_since_1970);
/// "1 line", "2 lines".
[[nodiscard]] std::string counted(std::uint64_t number, const std::string& one);

}  // namespace report

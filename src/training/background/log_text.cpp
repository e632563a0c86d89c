// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/log_text.h"

#include <array>
#include <cstdio>
#include <ctime>

namespace lockstep::training {

void append_time(std::string& text, std::int64_t nanoseconds) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::time_t seconds = nanoseconds / kSecond;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 80> digits{};
  const int length =
      std::snprintf(digits.data(), digits.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
                    utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                    utc.tm_sec, static_cast<int>(nanoseconds % kSecond / 1000));
  text.append(digits.data(), static_cast<std::size_t>(length));
}

void append_escaped(std::string& text, std::string_view message) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  const auto hexadecimal = [&](unsigned char byte) {
    text += "\\x";
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  };
  for (std::size_t i = 0; i < message.size(); ++i) {
    const auto byte = static_cast<unsigned char>(message[i]);
    // In UTF-8, the control characters above ASCII begin with 0xC2.
    const bool is_high_control = byte == 0xC2 && i + 1 < message.size() &&
                                 static_cast<unsigned char>(message[i + 1]) >= 0x80 &&
                                 static_cast<unsigned char>(message[i + 1]) < 0xA0;
    if (byte == '\n') {
      text += "\\n";
    } else if (byte == '\r') {
      text += "\\r";
    } else if (byte == '\t') {
      text += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      hexadecimal(byte);
    } else if (is_high_control) {
      hexadecimal(static_cast<unsigned char>(message[++i]));
    } else {
      text += message[i];
    }
  }
}

std::string lost_text(std::uint64_t lines, const std::string& reason) {
  std::string text = std::to_string(lines);
  text += lines == 1 ? " line was lost here: " : " lines were lost here: ";
  return text + reason;
}

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#include "text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace report {
namespace {

template <typename... Values>
std::string formatted(const char* format, Values... values) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Bytes of the character of UTF-8 that begins here; 0: it is none.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  std::size_t size = 1;
  unsigned least = 0;
  unsigned code = first;
  if (first >= 0xF0 && first < 0xF5) {
    size = 4, least = 0x10000, code = first & 0x07U;
  } else if (first >= 0xE0 && first < 0xF0) {
    size = 3, least = 0x800, code = first & 0x0FU;
  } else if (first >= 0xC2 && first < 0xE0) {
    size = 2, least = 0x80, code = first & 0x1FU;
  } else if (first >= 0x80) {
    return 0;
  }
  if (text.size() < size) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
    code = code << 6U | (byte(i) & 0x3FU);
  }
  const bool is_surrogate = code >= 0xD800 && code < 0xE000;
  return code < least || code > 0x10FFFF || is_surrogate ? 0 : size;
}

/// Control characters of ASCII and of Latin 1, and those that turn the direction of text.
bool is_control(std::string_view character) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(character[i]); };
  if (character.size() == 1) return byte(0) < 0x20 || byte(0) == 0x7F;
  if (character.size() == 2) return byte(0) == 0xC2 && byte(1) < 0xA0;
  if (character.size() != 3 || byte(0) != 0xE2) return false;
  return (byte(1) == 0x80 && byte(2) >= 0xAA && byte(2) <= 0xAE) ||
         (byte(1) == 0x81 && byte(2) >= 0xA6 && byte(2) <= 0xA9);
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const auto size = character_bytes(text);
    const char first = text[0];
    if (first == '\n' || first == '\t') {
      result += ' ';
    } else if (size == 0 || is_control(text.substr(0, size))) {
      result += kReplacement;
    } else if (first == '&') {
      result += "&amp;";
    } else if (first == '<') {
      result += "&lt;";
    } else if (first == '>') {
      result += "&gt;";
    } else if (first == '"') {
      result += "&quot;";
    } else if (first == '\'') {
      result += "&#39;";
    } else {
      result += text.substr(0, size);
    }
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return result;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "∞" : "-∞";
  return formatted("%.4g", value);
}

std::string exact_number(double value) {
  if (!std::isfinite(value)) return number(value);
  std::array<char, 32> digits{};
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr};
}

std::string place(double value) {
  auto text = formatted("%.1f", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

std::string bytes(double value) {
  constexpr std::array kUnits{"bytes", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) value /= 1024, ++unit;
  return formatted(unit == 0 ? "%.0f %s" : "%.3g %s", value, kUnits[unit]);
}

std::string duration(double seconds) {
  if (!(seconds > 0) || seconds > 1e12) return "0:00";
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 3600) return formatted("%lld:%02lld", whole / 60, whole % 60);
  const auto clock =
      formatted("%lld:%02lld:%02lld", whole / 3600 % 24, whole / 60 % 60, whole % 60);
  return whole < 86400 ? clock : formatted("%lld d ", whole / 86400) + clock;
}

std::string date(double seconds_since_1970) {
  if (!(std::abs(seconds_since_1970) < 1e11)) return "?";
  const auto seconds = static_cast<std::time_t>(seconds_since_1970);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  return formatted("%04d-%02d-%02d %02d:%02d:%02d UTC", utc.tm_year + 1900, utc.tm_mon + 1,
                   utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

std::string counted(std::uint64_t number, const std::string& one) {
  return std::to_string(number) + ' ' + one + (number == 1 ? "" : "s");
}

}  // namespace report

// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/data/loader/loader_state.h>
#include <zlib.h>

#include <array>
#include <charconv>
#include <limits>
#include <optional>

namespace lockstep::data {
namespace {

constexpr std::string_view kStatePrefix = "lockstep-loader-";
constexpr std::string_view kPrefix = "lockstep-loader-1:";
constexpr std::size_t kNumberDigits = 16;
constexpr std::size_t kChecksumDigits = 8;
constexpr std::size_t kNumbers = 5;
constexpr std::size_t kChecked = kPrefix.size() + kNumbers * kNumberDigits + 1;  // and a colon
constexpr std::size_t kSize = kChecked + kChecksumDigits;
static_assert(kSize <= LoaderState::kMaxBytes);

void append_hex(std::string& text, std::uint64_t value, std::size_t digits) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (std::size_t i = digits; i-- > 0;) text += kDigits[(value >> (4 * i)) & 15];
}

std::optional<std::uint64_t> parse_hex(std::string_view digits) {
  // from_chars would take capitals, too; then two texts would mean the same state.
  if (digits.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return value;
}

std::uint64_t checksum(std::string_view text) {
  return ::crc32(0, reinterpret_cast<const unsigned char*>(text.data()),
                 static_cast<unsigned>(text.size()));
}

std::uint64_t number_at(std::string_view bytes, std::size_t offset, std::size_t digits) {
  const auto value = parse_hex(bytes.substr(offset, digits));
  TORCH_CHECK(value, "LoaderState: at byte ", offset, ": expected ", digits,
              " digits of 0-9 and a-f; the state is damaged");
  return *value;
}

}  // namespace

std::string LoaderState::to_bytes() const {
  TORCH_CHECK(epoch >= 0, "LoaderState: epoch is ", epoch, "; it must not be negative");
  std::string text(kPrefix);
  for (const auto value :
       {seed, static_cast<std::uint64_t>(epoch), position, dataset_size, fingerprint}) {
    append_hex(text, value, kNumberDigits);
  }
  text += ':';
  append_hex(text, checksum(text), kChecksumDigits);
  return text;
}

LoaderState LoaderState::from_bytes(std::string_view bytes) {
  TORCH_CHECK(bytes.starts_with(kStatePrefix),
              "LoaderState: these bytes are no state of a loader, which begins with ",
              kStatePrefix);
  TORCH_CHECK(bytes.starts_with(kPrefix), "LoaderState: this state is of another version than 1");
  TORCH_CHECK(bytes.size() == kSize, "LoaderState: expected ", kSize, " bytes, found ",
              bytes.size(), "; the state is damaged");
  TORCH_CHECK(bytes[kChecked - 1] == ':', "LoaderState: at byte ", kChecked - 1,
              ": expected a colon; the state is damaged");
  std::array<std::uint64_t, kNumbers> numbers{};
  for (std::size_t i = 0; i < kNumbers; ++i) {
    numbers[i] = number_at(bytes, kPrefix.size() + i * kNumberDigits, kNumberDigits);
  }
  TORCH_CHECK(number_at(bytes, kChecked, kChecksumDigits) == checksum(bytes.substr(0, kChecked)),
              "LoaderState: the checksum does not fit; the state is damaged");
  TORCH_CHECK(numbers[1] <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()),
              "LoaderState: the epoch is negative");
  return {numbers[0], static_cast<std::int64_t>(numbers[1]), numbers[2], numbers[3], numbers[4]};
}

}  // namespace lockstep::data

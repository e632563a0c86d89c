// SPDX-License-Identifier: BSD-3-Clause
#include "files/bounded_view.h"

#include <c10/util/Exception.h>
#include <zlib.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace lockstep::files {
namespace {

native::MappedFile map(const std::string& path) {
  try {
    return native::MappedFile(path);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace

BoundedView::BoundedView(std::string path) : path_(std::move(path)), file_(map(path_)) {}

void BoundedView::fail(std::uint64_t offset, std::string_view expected,
                       std::string_view found) const {
  TORCH_CHECK(false, path_, ": at byte ", offset, ": expected ", expected, ", found ", found);
  __builtin_unreachable();
}

void BoundedView::fail_short(std::uint64_t offset, std::uint64_t count,
                             std::string_view what) const {
  TORCH_CHECK(false, path_, ": at byte ", size(), ": expected ", what, " (", count,
              " bytes from offset ", offset, "), found the end of the file");
  __builtin_unreachable();
}

void put_little_endian(std::span<std::byte> bytes, std::uint64_t value) noexcept {
  for (auto& byte : bytes) {
    byte = static_cast<std::byte>(value & 0xFF);
    value >>= 8;
  }
}

std::uint32_t crc32_of(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  return static_cast<std::uint32_t>(
      ::crc32_z(before, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 200;
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string result = "'";
  for (const char c : text.substr(0, kLongest)) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20 || code == 0x7F) {
      result += "\\x";
      result += kDigits[code >> 4];
      result += kDigits[code & 15];
    } else {
      result += c;
    }
  }
  return result + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace lockstep::files

// SPDX-License-Identifier: BSD-3-Clause
#include "data/readers/tar_reader.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

namespace lockstep::data {
namespace {

constexpr std::uint64_t kBlock = 512;
constexpr std::uint64_t kMaxExtended = std::uint64_t{1} << 20;  // no name is as long as that
// Offsets and lengths of the fields of a header.
constexpr std::size_t kNameBytes = 100;
constexpr std::size_t kSizeAt = 124;
constexpr std::size_t kSizeBytes = 12;
constexpr std::size_t kTarChecksumAt = 148;
constexpr std::size_t kTarChecksumBytes = 8;
constexpr std::size_t kTypeAt = 156;
constexpr std::size_t kMagicAt = 257;
constexpr std::size_t kPrefixAt = 345;
constexpr std::size_t kPrefixBytes = 155;

using ByteView = std::span<const std::byte>;

std::string_view text_of(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A field of text ends with a zero byte or with its space.
std::string_view field(ByteView header, std::size_t offset, std::size_t bytes) {
  const auto text = text_of(header.subspan(offset, bytes));
  return text.substr(0, std::min(text.find('\0'), text.size()));
}

std::optional<std::uint64_t> octal(std::string_view text) {
  const auto first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  std::size_t i = first;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '7'; ++i) {
    value = value << 3 | static_cast<std::uint64_t>(text[i] - '0');
  }
  const bool has_digits = i > first;
  const bool has_end =
      text.find_first_not_of(std::string_view(" \0", 2), i) == std::string_view::npos;
  if (!has_digits || !has_end) return std::nullopt;
  return value;
}

// Octal digits, or GNU's way for large numbers: a first bit of 1, then the number, highest first.
std::optional<std::uint64_t> number(ByteView raw) {
  const auto first = std::to_integer<unsigned>(raw[0]);
  if ((first & 0x80U) == 0) return octal(text_of(raw));
  if (first != 0x80U) return std::nullopt;  // negative, or above 2^64
  std::uint64_t value = 0;
  for (const auto byte : raw.subspan(1)) {
    if (value >> 56 != 0) return std::nullopt;
    value = value << 8 | std::to_integer<std::uint64_t>(byte);
  }
  return value;
}

bool is_zero(ByteView bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Old writers added signed bytes.
bool checksum_fits(ByteView header) {
  const auto written = octal(text_of(header.subspan(kTarChecksumAt, kTarChecksumBytes)));
  std::int64_t plain = 0;
  std::int64_t with_sign = 0;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const bool is_blank = i >= kTarChecksumAt && i < kTarChecksumAt + kTarChecksumBytes;
    const auto byte = is_blank ? std::uint8_t{' '} : std::to_integer<std::uint8_t>(header[i]);
    plain += byte;
    with_sign += static_cast<std::int8_t>(byte);
  }
  return written && (static_cast<std::int64_t>(*written) == plain ||
                     static_cast<std::int64_t>(*written) == with_sign);
}

std::string name_of(ByteView header) {
  std::string name(field(header, 0, kNameBytes));
  // GNU's magic word has a blank here, and other things where ustar has the prefix.
  if (text_of(header.subspan(kMagicAt, 6)) == std::string_view("ustar\0", 6)) {
    const auto prefix = field(header, kPrefixAt, kPrefixBytes);
    if (!prefix.empty()) name = std::string(prefix) + "/" + name;
  }
  return name;
}

const char* description(char type) {
  switch (type) {
    case '1':
      return "a hard link";
    case '2':
      return "a symbolic link";
    case '3':
    case '4':
      return "a device";
    case '6':
      return "a pipe";
    case 'S':
      return "a sparse file";
    default:
      return "something unknown";
  }
}

bool begins_with(ByteView bytes, std::string_view start) {
  return text_of(bytes).substr(0, start.size()) == start;
}

// What people do to archives; nullptr: nothing that is known.
const char* compression_of(ByteView bytes) {
  if (begins_with(bytes, "\x1F\x8B")) return "gzip";
  if (begins_with(bytes, "BZh")) return "bzip2";
  if (begins_with(bytes, std::string_view("\xFD\x37zXZ\0", 6))) return "xz";
  if (begins_with(bytes, "\x28\xB5\x2F\xFD")) return "zstd";
  return nullptr;
}

}  // namespace

std::optional<TarMember> TarReader::next() {
  for (;;) {
    const auto start = position_;
    if (is_at_end()) {
      if (extended_.name || extended_.size) {
        archive_.fail(start, "the file that the header before is about", "the end of the archive");
      }
      expect_only_zeros();
      return std::nullopt;
    }
    const auto header = archive_.bytes(start, kBlock, "a header");
    const auto size = checked_size(start, header);
    const char type = static_cast<char>(header[kTypeAt]);
    position_ += kBlock;
    if (read_extension(type, size)) continue;
    const auto about = std::exchange(extended_, {});
    auto member =
        read_member(start, type, about.name.value_or(name_of(header)), about.size.value_or(size));
    if (member) return member;
  }
}

// Where no header stands at the beginning, this may be why.
void TarReader::check_uncompressed() const {
  const auto* compression = compression_of(
      archive_.bytes(0, std::min<std::uint64_t>(archive_.size(), kBlock), "a header"));
  if (position_ != 0 || compression == nullptr) return;
  archive_.fail(0, "an uncompressed tar archive, whose samples can be read where they lie",
                std::string(compression) + " (unpack it once, as gunzip does)");
}

// An archive ends at zeros, or where the file ends behind a member: not every writer leaves a mark
// there.
bool TarReader::is_at_end() const {
  const auto left = archive_.size() - position_;
  const auto block = archive_.bytes(position_, std::min(left, kBlock), "a header");
  if (is_zero(block) && (position_ > 0 || left >= kBlock)) return true;
  if (left < kBlock) {
    check_uncompressed();
    archive_.fail(archive_.size(), "a header or the zeros that end an archive (is it truncated?)",
                  "the end of the file");
  }
  return false;
}

// What the header itself says of the size, if it is a header.
std::uint64_t TarReader::checked_size(std::uint64_t start, ByteView header) const {
  if (!checksum_fits(header)) {
    check_uncompressed();
    archive_.fail(start + kTarChecksumAt, "the checksum of a tar header",
                  "another; this is no tar header, or a damaged one");
  }
  const auto raw = header.subspan(kSizeAt, kSizeBytes);
  const auto size = number(raw);
  if (!size) archive_.fail(start + kSizeAt, "a size", files::in_quotes(text_of(raw)));
  return *size;
}

// True where the header was only about the one behind it.
bool TarReader::read_extension(char type, std::uint64_t size) {
  if (type == 'L') {
    const auto content = text_of(read_content(size, "a long name"));
    extended_.name = std::string(content.substr(0, std::min(content.find('\0'), content.size())));
    return true;
  }
  if (type == 'K') {  // the target of a link, which will be refused
    static_cast<void>(read_content(size, "a long name"));
    return true;
  }
  if (type == 'x' || type == 'g') {
    read_pax(size, type == 'g');
    return true;
  }
  return false;
}

// Nothing for a folder.
std::optional<TarMember> TarReader::read_member(std::uint64_t start, char type,
                                                const std::string& name, std::uint64_t size) {
  check_name(start, name);
  const bool is_file = type == '0' || type == '\0' || type == '7';
  if (!is_file && type != '5') {
    archive_.fail(start + kTypeAt, "an ordinary file or a folder",
                  std::string(description(type)) + ", " + files::in_quotes(name));
  }
  const bool is_folder = type == '5' || name.empty() || name == "." || name.back() == '/';
  if (is_folder && size != 0) {
    archive_.fail(start + kSizeAt, "no content of the folder " + files::in_quotes(name),
                  std::to_string(size) + " bytes");
  }
  const auto content = position_;
  position_ += padded(size, "the content of " + files::in_quotes(name));
  if (is_folder) return std::nullopt;
  return TarMember{name, content, size};
}

void TarReader::expect_only_zeros() const {
  const auto rest = archive_.bytes(position_, archive_.size() - position_, "zeros");
  const auto other =
      std::find_if(rest.begin(), rest.end(), [](std::byte b) { return b != std::byte{0}; });
  if (other != rest.end()) {
    archive_.fail(position_ + static_cast<std::uint64_t>(other - rest.begin()),
                  "only zeros behind the end of the archive",
                  "other bytes (archives that were joined are not read)");
  }
}

// What the content takes up in the archive, which has all of it.
std::uint64_t TarReader::padded(std::uint64_t size, const std::string& what) const {
  static_cast<void>(archive_.bytes(position_, size, what));
  const auto whole = (size + kBlock - 1) / kBlock * kBlock;
  static_cast<void>(archive_.bytes(position_, whole, what));
  return whole;
}

std::span<const std::byte> TarReader::read_content(std::uint64_t size, const char* what) {
  if (size > kMaxExtended) {
    archive_.fail(position_ - kBlock + kSizeAt,
                  std::string(what) + " of at most " + std::to_string(kMaxExtended) + " bytes",
                  std::to_string(size));
  }
  const auto whole = padded(size, what);
  const auto content = archive_.bytes(position_, size, what);
  position_ += whole;
  return content;
}

// Records "LENGTH KEY=VALUE\n", where LENGTH counts the whole record.
void TarReader::read_pax(std::uint64_t size, bool is_global) {
  const auto start = position_;
  const auto text = text_of(read_content(size, "an extended header"));
  std::size_t at = 0;
  while (at < text.size()) {
    const auto fail = [&](const char* expected) {
      archive_.fail(start + at, expected, files::in_quotes(text.substr(at, 40)));
    };
    std::size_t length = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), length);
    const auto digits = static_cast<std::size_t>(end - text.data()) - at;
    if (error != std::errc() || length > text.size() - at || length < digits + 3 ||
        text[at + digits] != ' ' || text[at + length - 1] != '\n') {
      fail("a record LENGTH KEY=VALUE of an extended header");
    }
    const auto record = text.substr(at + digits + 1, length - digits - 2);
    const auto equals = record.find('=');
    if (equals == std::string_view::npos) fail("a record with an equals sign");
    const auto key = record.substr(0, equals);
    const auto value = record.substr(equals + 1);
    if (key.starts_with("GNU.sparse.")) fail("no sparse files");
    if (is_global && (key == "path" || key == "size")) fail("no name or size for all files");
    if (key == "path") extended_.name = std::string(value);
    if (key == "size") {
      std::uint64_t bytes = 0;
      const auto* last = value.data() + value.size();
      const auto [stop, wrong] = std::from_chars(value.data(), last, bytes);
      if (wrong != std::errc() || stop != last) fail("a size");
      extended_.size = bytes;
    }
    at += length;
  }
}

void TarReader::check_name(std::uint64_t header, const std::string& name) const {
  if (name.find('\0') != std::string::npos) {
    archive_.fail(header, "a name without zero bytes", files::in_quotes(name));
  }
  if (name.starts_with('/')) archive_.fail(header, "a relative name", files::in_quotes(name));
  std::size_t at = 0;
  while (at <= name.size()) {
    const auto end = std::min(name.find('/', at), name.size());
    if (std::string_view(name).substr(at, end - at) == "..") {
      archive_.fail(header, "a name without ..", files::in_quotes(name));
    }
    at = end + 1;
  }
}

}  // namespace lockstep::data

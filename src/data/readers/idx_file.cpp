// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/from_blob.h>
#include <lockstep/data/readers/idx_dataset.h>

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "files/bounded_reader.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kMaxDimensions = 8;

std::optional<at::ScalarType> scalar_type(std::uint8_t code) {
  switch (code) {
    case 0x08:
      return at::kByte;
    case 0x09:
      return at::kChar;
    case 0x0B:
      return at::kShort;
    case 0x0C:
      return at::kInt;
    case 0x0D:
      return at::kFloat;
    case 0x0E:
      return at::kDouble;
    default:
      return std::nullopt;
  }
}

struct IdxHeader {
  at::ScalarType type = at::kByte;
  std::vector<std::int64_t> sizes;
  std::uint64_t bytes = 0;
};

IdxHeader read_header(files::BoundedReader& file, std::uint64_t max_bytes) {
  std::array<std::uint8_t, 4> magic{};
  file.read(magic, "the four bytes of an idx header");
  if (magic[0] != 0 || magic[1] != 0) {
    file.fail(0, "two zero bytes, as idx files start",
              std::to_string(magic[0]) + " and " + std::to_string(magic[1]));
  }
  const auto type = scalar_type(magic[2]);
  if (!type) file.fail(2, "an idx type code (8, 9, 11 to 14)", std::to_string(magic[2]));
  if (magic[3] < 1 || magic[3] > kMaxDimensions) {
    file.fail(3, "1 to " + std::to_string(kMaxDimensions) + " dimensions",
              std::to_string(magic[3]));
  }
  IdxHeader header{*type, {}, c10::elementSize(*type)};
  // Strides must fit as well, also where another size is 0.
  auto extent = header.bytes;
  for (std::uint8_t dimension = 0; dimension < magic[3]; ++dimension) {
    const auto offset = file.offset();
    std::array<std::uint8_t, 4> raw{};
    file.read(raw, "dimension " + std::to_string(dimension));
    const auto size = (std::uint64_t{raw[0]} << 24) | (std::uint64_t{raw[1]} << 16) |
                      (std::uint64_t{raw[2]} << 8) | std::uint64_t{raw[3]};
    if (size > 0 && extent > max_bytes / size) {
      file.fail(offset, "values of at most " + std::to_string(max_bytes) + " bytes in all",
                "dimension " + std::to_string(dimension) + " of " + std::to_string(size));
    }
    extent *= std::max<std::uint64_t>(size, 1);
    header.bytes *= size;
    header.sizes.push_back(static_cast<std::int64_t>(size));
  }
  return header;
}

void from_big_endian(std::vector<std::uint8_t>& bytes, std::size_t element) {
  if (element == 1 || std::endian::native == std::endian::big) return;
  for (auto value = bytes.begin(); value != bytes.end();
       value += static_cast<std::ptrdiff_t>(element)) {
    std::reverse(value, value + static_cast<std::ptrdiff_t>(element));
  }
}

}  // namespace

IdxFile::IdxFile(std::string path, std::uint64_t max_bytes) : path_(std::move(path)) {
  files::BoundedReader file(path_);
  const auto header = read_header(file, max_bytes);
  auto bytes = std::make_shared<std::vector<std::uint8_t>>(
      file.read_bytes(header.bytes, "values of the dimensions in the header"));
  file.expect_end();
  from_big_endian(*bytes, c10::elementSize(header.type));
  values_ = at::from_blob(
      bytes->data(), header.sizes, [bytes](void*) {}, header.type);
}

}  // namespace lockstep::data

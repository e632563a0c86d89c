// SPDX-License-Identifier: BSD-3-Clause
#include "data/readers/packed_header.h"

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

namespace lockstep::data::detail {
namespace {

constexpr std::string_view kPackedMagic = "LSPACKED";
constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kVersionAt = 8;
constexpr std::size_t kHeaderSizeAt = 12;
constexpr std::size_t kDataAt = 16;
constexpr std::size_t kTensorBytes = 4 + 4 + 8 * PackedHeader::kMaxDimensions;
constexpr std::size_t kTargetAt = kDataAt + kTensorBytes;
constexpr std::size_t kCountAt = kTargetAt + kTensorBytes;
constexpr std::size_t kStrideAt = kCountAt + 8;
constexpr std::size_t kChecksumAt = kStrideAt + 8;
constexpr std::size_t kReservedAt = kChecksumAt + 4;
constexpr std::size_t kHeaderChecksumAt = PackedHeader::kBytes - 4;
constexpr std::uint64_t kAlignment = 8;
constexpr auto kMostBytes = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

constexpr std::array<std::pair<std::uint32_t, at::ScalarType>, 9> kTypes{{
    {1, at::kByte},
    {2, at::kChar},
    {3, at::kShort},
    {4, at::kInt},
    {5, at::kLong},
    {6, at::kHalf},
    {7, at::kBFloat16},
    {8, at::kFloat},
    {9, at::kDouble},
}};

void put_tensor(std::span<std::byte> bytes, const PackedTensor& tensor) {
  const auto known = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const auto& entry) { return entry.second == tensor.type; });
  files::put_little_endian(bytes.subspan(0, 4), known->first);
  files::put_little_endian(bytes.subspan(4, 4), tensor.sizes.size());
  for (std::size_t i = 0; i < tensor.sizes.size(); ++i) {
    files::put_little_endian(bytes.subspan(8 + 8 * i, 8),
                             static_cast<std::uint64_t>(tensor.sizes[i]));
  }
}

PackedTensor read_tensor(const files::BoundedView& file, std::uint64_t at) {
  const auto number = [&](std::uint64_t offset, std::uint64_t bytes) {
    return files::little_endian(file.bytes(offset, bytes, "the header"));
  };
  const auto code = number(at, 4);
  const auto known = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const auto& entry) { return entry.first == code; });
  if (known == kTypes.end()) file.fail(at, "a dtype from 1 to 9", std::to_string(code));
  const auto dimensions = number(at + 4, 4);
  if (dimensions > PackedHeader::kMaxDimensions) {
    file.fail(at + 4, "at most 8 dimensions", std::to_string(dimensions));
  }
  PackedTensor tensor{known->second, {}, c10::elementSize(known->second)};
  auto extent = tensor.bytes;
  for (std::uint64_t i = 0; i < PackedHeader::kMaxDimensions; ++i) {
    const auto offset = at + 8 + 8 * i;
    const auto size = number(offset, 8);
    if (i >= dimensions) {
      if (size != 0) file.fail(offset, "0 behind the last dimension", std::to_string(size));
      continue;
    }
    // Strides must fit as well, also where another size is 0.
    if (size > kMostBytes || (size > 0 && extent > kMostBytes / size)) {
      file.fail(offset, "a size whose product with the others is below 2^63", std::to_string(size));
    }
    extent *= std::max<std::uint64_t>(size, 1);
    tensor.bytes *= size;
    tensor.sizes.push_back(static_cast<std::int64_t>(size));
  }
  return tensor;
}

void check_start(const files::BoundedView& file) {
  const auto magic = file.bytes(0, kPackedMagic.size(), "the magic word LSPACKED");
  if (std::string_view(reinterpret_cast<const char*>(magic.data()), magic.size()) != kPackedMagic) {
    file.fail(0, "the magic word LSPACKED", "other bytes; this is no file of packed records");
  }
  const auto header = file.bytes(0, PackedHeader::kBytes, "the header");
  const auto version = files::little_endian(header.subspan(kVersionAt, 4));
  if (version != kVersion) file.fail(kVersionAt, "version 1", std::to_string(version));
  if (files::little_endian(header.subspan(kHeaderChecksumAt, 4)) !=
      files::crc32_of(header.first(kHeaderChecksumAt))) {
    file.fail(kHeaderChecksumAt, "the checksum of the header", "another; the header is damaged");
  }
  const auto bytes = files::little_endian(header.subspan(kHeaderSizeAt, 4));
  if (bytes != PackedHeader::kBytes) {
    file.fail(kHeaderSizeAt, "a header of 256 bytes", std::to_string(bytes));
  }
  for (std::size_t i = kReservedAt; i < kHeaderChecksumAt; ++i) {
    if (header[i] != std::byte{0}) file.fail(i, "a zero", "another byte");
  }
}

}  // namespace

std::array<std::byte, PackedHeader::kBytes> PackedHeader::to_bytes() const {
  std::array<std::byte, kBytes> bytes{};
  const std::span<std::byte> all(bytes);
  std::transform(kPackedMagic.begin(), kPackedMagic.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  files::put_little_endian(all.subspan(kVersionAt, 4), kVersion);
  files::put_little_endian(all.subspan(kHeaderSizeAt, 4), kBytes);
  put_tensor(all.subspan(kDataAt, kTensorBytes), data);
  put_tensor(all.subspan(kTargetAt, kTensorBytes), target);
  files::put_little_endian(all.subspan(kCountAt, 8), count);
  files::put_little_endian(all.subspan(kStrideAt, 8), stride);
  files::put_little_endian(all.subspan(kChecksumAt, 4), checksum);
  files::put_little_endian(all.subspan(kHeaderChecksumAt, 4),
                           files::crc32_of(all.first(kHeaderChecksumAt)));
  return bytes;
}

PackedHeader PackedHeader::read(const files::BoundedView& file) {
  check_start(file);
  PackedHeader header;
  header.data = read_tensor(file, kDataAt);
  header.target = read_tensor(file, kTargetAt);
  const auto number = [&](std::uint64_t at, std::uint64_t bytes) {
    return files::little_endian(file.bytes(at, bytes, "the header"));
  };
  header.count = number(kCountAt, 8);
  header.stride = number(kStrideAt, 8);
  header.checksum = static_cast<std::uint32_t>(number(kChecksumAt, 4));
  const auto stride = packed_stride(header.data, header.target);
  if (stride != header.stride) {
    file.fail(kStrideAt, "the bytes of one sample" + (stride ? ", " + std::to_string(*stride) : ""),
              std::to_string(header.stride));
  }
  if (header.count == 0) file.fail(kCountAt, "1 record or more", "0");
  if (header.count > kMostBytes / *stride - 1) {
    file.fail(kCountAt, "records of less than 2^63 bytes in all", std::to_string(header.count));
  }
  const auto end = kBytes + header.count * *stride;
  static_cast<void>(file.bytes(kBytes, end - kBytes, "the records that the header counts"));
  if (file.size() != end) {
    file.fail(end, "the end of the file", std::to_string(file.size() - end) + " more bytes");
  }
  return header;
}

PackedTensor packed_tensor_of(const at::Tensor& tensor, const char* which) {
  TORCH_CHECK(tensor.defined(), "PackedRecordsWriter: the ", which, " is an undefined tensor");
  TORCH_CHECK(std::any_of(kTypes.begin(), kTypes.end(),
                          [&](const auto& e) { return e.second == tensor.scalar_type(); }),
              "PackedRecordsWriter: the ", which, " is ", tensor.scalar_type(),
              "; it must be uint8, int8 to int64, float16, bfloat16, float32 or float64");
  TORCH_CHECK(static_cast<std::size_t>(tensor.dim()) <= PackedHeader::kMaxDimensions,
              "PackedRecordsWriter: the ", which, " has ", tensor.dim(), " dimensions; at most ",
              PackedHeader::kMaxDimensions, " are possible");
  return {tensor.scalar_type(), tensor.sizes().vec(), tensor.nbytes()};
}

std::optional<std::uint64_t> packed_stride(const PackedTensor& data, const PackedTensor& target) {
  // Each is below 2^63, so their sum does not wrap around.
  const auto bytes = data.bytes + target.bytes;
  if (bytes == 0 || bytes > kMostBytes - kAlignment) return std::nullopt;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace lockstep::data::detail

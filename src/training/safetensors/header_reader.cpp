// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "files/bounded_view.h"
#include "training/safetensors/dtypes.h"
#include "training/safetensors/header.h"
#include "training/safetensors/header_json.h"

namespace lockstep::training {
namespace {

constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

/// Compares the parts of a header with each other and with the size of the file.
class HeaderCheck {
 public:
  HeaderCheck(std::uint64_t data_offset, std::uint64_t file_bytes, const HeaderFail& fail)
      : data_offset_(data_offset),
        file_bytes_(file_bytes),
        data_bytes_(file_bytes - data_offset),
        fail_(fail) {}

  SafetensorsTensor check(const std::string& name, const HeaderJson::Tensor& json) const {
    require(json.dtype.has_value(), name, "a dtype", "none");
    require(json.shape.has_value(), name, "a shape", "none");
    require(json.data_offsets.has_value() && json.data_offsets->size() == 2, name,
            "two data_offsets",
            json.data_offsets ? std::to_string(json.data_offsets->size()) : "none");
    const SafetensorsDtype* dtype = find_safetensors_dtype(*json.dtype);
    require(dtype != nullptr, name, "a dtype of the format", files::in_quotes(*json.dtype));
    require(dtype->type.has_value(), name, "a dtype that LibTorch has",
            files::in_quotes(*json.dtype));
    const auto [begin, end] = std::pair((*json.data_offsets)[0], (*json.data_offsets)[1]);
    require(begin <= end, name, "data_offsets that do not fall",
            std::to_string(begin) + " and " + std::to_string(end));
    require(end <= data_bytes_, name,
            "data_offsets of at most " + std::to_string(data_bytes_) + ", the bytes that there are",
            std::to_string(end));
    SafetensorsTensor tensor;
    tensor.dtype = *dtype->type;
    tensor.offset = data_offset_ + begin;
    tensor.bytes = end - begin;
    const auto bytes = bytes_of(name, *json.shape, *dtype);
    require(tensor.bytes == bytes, name, std::to_string(bytes) + " bytes for its shape",
            std::to_string(tensor.bytes));
    for (const auto size : *json.shape) tensor.shape.push_back(static_cast<std::int64_t>(size));
    if (dtype->numbers_per_element() > 1) tensor.shape.back() /= dtype->numbers_per_element();
    return tensor;
  }

  /// Whether every byte behind the header belongs to just one tensor.
  void check_cover(const std::map<std::string, SafetensorsTensor>& tensors) const {
    std::vector<std::tuple<std::uint64_t, std::uint64_t, const std::string*>> ranges;
    ranges.reserve(tensors.size());
    for (const auto& [name, tensor] : tensors) {
      ranges.emplace_back(tensor.offset, tensor.bytes, &name);
    }
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t end = data_offset_;
    for (const auto& [offset, bytes, name] : ranges) {
      require(offset == end, *name,
              "no gap and no overlap: data that begins at byte " +
                  std::to_string(end - data_offset_) + " of the data",
              std::to_string(offset - data_offset_));
      end = offset + bytes;
    }
    if (end != file_bytes_) {
      fail_(end, "the end of the file behind the last tensor",
            std::to_string(file_bytes_ - end) + " more bytes");
    }
  }

 private:
  /// All products are compared before they are made.
  std::uint64_t bytes_of(const std::string& name, const std::vector<std::uint64_t>& shape,
                         const SafetensorsDtype& dtype) const {
    std::uint64_t numbers = 1;
    bool is_empty = false;
    for (const auto size : shape) {
      require(size <= kMost / numbers, name, "a shape of less than 2^63 numbers", "more");
      size == 0 ? void(is_empty = true) : void(numbers *= size);
    }
    require(numbers <= kMost / static_cast<std::uint64_t>(dtype.bits), name,
            "a shape of less than 2^63 bits", "more");
    const auto packed = static_cast<std::uint64_t>(dtype.numbers_per_element());
    require(packed == 1 || (!shape.empty() && shape.back() % packed == 0), name,
            "a last dimension of whole bytes", "another one");
    return is_empty ? 0 : numbers * static_cast<std::uint64_t>(dtype.bits) / 8;
  }

  void require(bool claim, const std::string& name, const std::string& expected,
               const std::string& found) const {
    if (claim) return;
    fail_(kLengthBytes, "for the tensor " + files::in_quotes(name) + " " + expected, found);
  }

  std::uint64_t data_offset_;
  std::uint64_t file_bytes_;
  std::uint64_t data_bytes_;
  const HeaderFail& fail_;
};

}  // namespace

SafetensorsHeader read_header(const files::BoundedFile& file) {
  std::array<std::byte, kLengthBytes> length{};
  file.read(0, length, "the length of the header");
  const HeaderFail fail = [&](std::uint64_t offset, const std::string& expected,
                              const std::string& found) { file.fail(offset, expected, found); };
  const std::string text =
      file.text(kLengthBytes, header_length(length, file.size(), fail), "the header");
  return check_header(text, file.size(), fail);
}

std::uint64_t header_length(std::span<const std::byte, kLengthBytes> length,
                            std::uint64_t file_bytes, const HeaderFail& fail) {
  const auto bytes = files::little_endian(length);
  if (bytes > kMaxHeaderBytes) {
    fail(0, "a header of at most " + std::to_string(kMaxHeaderBytes) + " bytes",
         std::to_string(bytes));
  }
  if (bytes > file_bytes - kLengthBytes) {
    fail(0,
         "a header of at most " + std::to_string(file_bytes - kLengthBytes) +
             " bytes, which is all that follows",
         std::to_string(bytes));
  }
  return bytes;
}

SafetensorsHeader check_header(std::string_view text, std::uint64_t file_bytes,
                               const HeaderFail& fail) {
  HeaderJson json = parse_header(text, [&](const std::string& expected, const std::string& found) {
    fail(kLengthBytes, "in the header " + expected, found);
  });
  SafetensorsHeader header;
  header.metadata = std::move(json.metadata);
  header.file_bytes = file_bytes;
  const HeaderCheck check(kLengthBytes + text.size(), file_bytes, fail);
  for (const auto& [name, tensor] : json.tensors) {
    header.tensors.emplace_hint(header.tensors.end(), name, check.check(name, tensor));
  }
  check.check_cover(header.tensors);
  return header;
}

}  // namespace lockstep::training

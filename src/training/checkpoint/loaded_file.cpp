// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/loaded_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "files/bounded_file.h"
#include "native/posix/huge_pages.h"
#include "training/checkpoint/file_check.h"
#include "training/safetensors/header.h"

namespace lockstep::training {
namespace {

/// From here on, memory has a large page inside.
constexpr std::size_t kHuge = std::size_t{4} << 20;

SafetensorsHeader read_header(const files::BoundedFile& file, CheckedReader& reader) {
  const HeaderFail fail = [&](std::uint64_t offset, const std::string& expected,
                              const std::string& found) { file.fail(offset, expected, found); };
  std::array<std::byte, kLengthBytes> length{};
  reader.read(length);
  std::string text(static_cast<std::size_t>(header_length(length, file.size(), fail)), '\0');
  reader.read(std::as_writable_bytes(std::span(text)));
  return check_header(text, file.size(), fail);
}

/// Sorts the tensors by the place of their bytes; no byte between them is left out.
std::vector<std::pair<std::string, SafetensorsTensor>> in_order(const SafetensorsHeader& header) {
  std::vector<std::pair<std::string, SafetensorsTensor>> tensors(header.tensors.begin(),
                                                                 header.tensors.end());
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& left, const auto& right) {
    return left.second.offset < right.second.offset;
  });
  return tensors;
}

at::Tensor read_tensor(const SafetensorsTensor& place, CheckedReader& reader) {
  const auto bytes = static_cast<std::size_t>(place.bytes);
  // Bytes first: LibTorch does not make tensors of all dtypes with all of its settings.
  at::Tensor memory =
      at::empty({static_cast<std::int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
  auto* start = static_cast<std::byte*>(memory.mutable_data_ptr());
  if (bytes >= kHuge) native::prefer_huge_pages(start, bytes);
  reader.read({start, bytes});
  return at::from_blob(
      start, place.shape, [kept = std::move(memory)](void*) {},
      at::TensorOptions().dtype(place.dtype));
}

}  // namespace

LoadedFile::LoadedFile(const std::filesystem::path& path, const FileDigest& expected,
                       native::FileSystem& files) {
  const files::BoundedFile file(path.string(), files);
  CheckedReader reader(file, expected);
  SafetensorsHeader header;
  try {
    header = read_header(file, reader);
  } catch (...) {
    reader.finish();  // says it better where the bytes are not those that were written
    throw;
  }
  for (const auto& [name, place] : in_order(header)) {
    tensors_.emplace(name, read_tensor(place, reader));
  }
  reader.finish();
  texts_ = std::move(header.metadata);
}

}  // namespace lockstep::training

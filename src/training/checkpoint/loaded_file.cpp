// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/loaded_file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "files/bounded_file.h"
#include "native/posix/huge_pages.h"
#include "training/checkpoint/file_check.h"
#include "training/safetensors/header.h"

namespace lockstep::training {

LoadedFile::LoadedFile(const std::filesystem::path& path, const FileDigest& expected,
                       native::FileSystem& files) {
  const files::BoundedFile file(path.string(), files);
  check_size(file, expected);
  bytes_ = at::empty({static_cast<std::int64_t>(file.size())},
                     at::TensorOptions().dtype(c10::ScalarType::Byte));
  auto* target = static_cast<std::byte*>(bytes_.mutable_data_ptr());
  native::prefer_huge_pages(target, bytes_.nbytes());
  read_checked(file, expected, [&](std::uint64_t offset) { return target + offset; });
  header_ = read_header(file);
}

void LoadedFile::add_tensors(std::map<std::string, at::Tensor>& tensors) const {
  auto* bytes = static_cast<std::byte*>(bytes_.mutable_data_ptr());
  for (const auto& [name, place] : header_.tensors) {
    // Each with a storage of its own: LibTorch's generators take no notice of a tensor's offset.
    // Aligned, since the format sorts tensors by the size of their elements.
    tensors.emplace(name, at::from_blob(
                              bytes + place.offset, place.shape, [kept = bytes_](void*) {},
                              at::TensorOptions().dtype(place.dtype)));
  }
}

}  // namespace lockstep::training

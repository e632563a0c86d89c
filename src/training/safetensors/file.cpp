// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/file.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <bit>
#include <span>
#include <system_error>
#include <utility>

#include "files/bounded_view.h"
#include "native/posix/mapped_file.h"
#include "training/safetensors/header.h"

namespace lockstep::training {

static_assert(std::endian::native == std::endian::little,
              "the bytes of the files are those of the machine");

SafetensorsFile::SafetensorsFile(std::string path, native::FileSystem& files)
    : file_(std::move(path), files), header_(read_header(file_)) {}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const SafetensorsTensor& place = header_.tensors.at(name);
  at::Tensor tensor = at::empty(place.shape, at::TensorOptions().dtype(place.dtype));
  if (place.bytes > 0) {
    file_.read(place.offset, {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()},
               "the tensor " + files::in_quotes(name));
  }
  check_values(name, tensor);
  return tensor;
}

at::Tensor SafetensorsFile::map(const std::string& name) {
  const SafetensorsTensor& place = header_.tensors.at(name);
  if (place.bytes == 0 || place.offset % c10::elementSize(place.dtype) != 0) return read(name);
  if (mapping_ == nullptr) {
    try {
      auto mapping = std::make_shared<const native::MappedFile>(
          file_.descriptor(), path(), native::MappedFile::Access::CopiedOnWrite);
      TORCH_CHECK(mapping->bytes().size() >= header_.file_bytes, path(),
                  ": has been made shorter while it was read");
      mapped_ = mapping->writable_bytes().data();
      mapping_ = std::move(mapping);
    } catch (const std::system_error& error) {
      TORCH_CHECK(false, error.what());
    }
  }
  at::Tensor tensor = at::from_blob(
      mapped_ + place.offset, place.shape, [kept = mapping_](void*) {},
      at::TensorOptions().dtype(place.dtype));
  check_values(name, tensor);
  return tensor;
}

void SafetensorsFile::check_values(const std::string& name, const at::Tensor& tensor) const {
  if (tensor.scalar_type() != c10::ScalarType::Bool) return;
  const std::span bytes(static_cast<const std::uint8_t*>(tensor.const_data_ptr()), tensor.nbytes());
  const auto wrong = std::find_if(bytes.begin(), bytes.end(), [](auto byte) { return byte > 1; });
  if (wrong == bytes.end()) return;
  // Where C++ expects a bool, such a byte is undefined behaviour.
  file_.fail(header_.tensors.at(name).offset + static_cast<std::uint64_t>(wrong - bytes.begin()),
             "0 or 1 in the tensor " + files::in_quotes(name) + " of dtype BOOL",
             std::to_string(*wrong));
}

}  // namespace lockstep::training

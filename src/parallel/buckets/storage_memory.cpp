// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/storage_memory.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <utility>

#include "parallel/buckets/arena_allocator.h"

namespace lockstep {

c10::DataPtr move_to_ordinary_memory(const c10::Storage& storage) {
  const std::size_t bytes = storage.nbytes();
  if (storage.device().is_cpu()) {
    // Not from an arena, which may be where it lies now.
    c10::DataPtr memory = ordinary_cpu_allocator().allocate(bytes);
    std::memcpy(memory.get(), storage.data(), bytes);
    return storage.set_data_ptr(std::move(memory));
  }
  const auto options = at::TensorOptions(at::kByte).device(storage.device());
  const auto size = static_cast<std::int64_t>(bytes);
  const at::Tensor source = at::empty({0}, options).set_(storage, 0, {size}, {1});
  const at::Tensor copy = at::empty({size}, options);
  copy.copy_(source);
  return storage.set_data_ptr(copy.storage().set_data_ptr(c10::DataPtr(nullptr, storage.device())));
}

c10::Storage make_storage_in(const c10::Storage& memory, std::size_t begin, std::size_t size) {
  void* const data = static_cast<std::byte*>(memory.mutable_data()) + begin;
  c10::DataPtr pointer(
      data, new c10::Storage(memory),
      [](void* context) { delete static_cast<c10::Storage*>(context); }, memory.device());
  return {c10::Storage::use_byte_size_t(), size, std::move(pointer), /*allocator=*/nullptr,
          /*resizable=*/false};
}

}  // namespace lockstep

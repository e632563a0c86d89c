// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Storage.h>

namespace lockstep {

/// Moves a storage's bytes to memory of its device's allocator, and returns the memory in which
/// they were. So whoever holds a tensor of this storage, or a view of one, keeps its values,
/// whatever is written to the old memory. Raw pointers still point to the old memory.
///
/// Thread-safety: nobody else uses the storage meanwhile. Throws: where there is no memory; then
/// nothing has changed.
[[nodiscard]] c10::DataPtr move_to_ordinary_memory(const c10::Storage& storage);

/// Makes a storage of its own for a part of `memory`, which it keeps. `begin` and `size` are in
/// bytes.
[[nodiscard]] c10::Storage make_storage_in(const c10::Storage& memory, std::size_t begin,
                                           std::size_t size);

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Storage.h>

namespace lockstep {

/// Gives a storage memory of its device's allocator with the same bytes in it, and returns the
/// memory that it had. So whoever holds a tensor of this storage, or a view of one, keeps its
/// values, whatever is written to the old memory; raw pointers into it stay behind.
///
/// Thread-safety: nobody else uses the storage meanwhile. Throws: where there is no memory; then
/// nothing has changed.
[[nodiscard]] c10::DataPtr move_to_ordinary_memory(const c10::Storage& storage);

/// Tensors of this memory, which they keep, have a storage of their own. `size`: in bytes.
[[nodiscard]] c10::Storage make_storage_in(const c10::Storage& memory, std::size_t begin,
                                           std::size_t size);

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace lockstep {

/// Ordinary zeroed memory, for backends that register none; null where there is too little.
[[nodiscard]] std::shared_ptr<void> allocate_zeroed(std::size_t bytes);
/// The error text for that, on a rank that has its own memory and on one that has not.
[[nodiscard]] std::string no_memory_text(std::size_t bytes, bool has_memory);

}  // namespace lockstep

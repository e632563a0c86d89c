// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/host_memory.h"

#include <algorithm>
#include <cstdlib>

namespace lockstep {

std::shared_ptr<void> allocate_zeroed(std::size_t bytes) {
  void* data = std::calloc(std::max<std::size_t>(1, bytes), 1);
  if (data == nullptr) return nullptr;
  return {data, std::free};
}

std::string no_memory_text(std::size_t bytes, bool has_memory) {
  return std::to_string(bytes) + " bytes wanted, more than is free on " +
         (has_memory ? "another rank" : "this rank");
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "comm/nccl/window_registry.h"
#include "native/posix/owning_process.h"

namespace lockstep {

/// Memory from NCCL. Its destructor deregisters and frees it, whatever has happened since.
class NcclMemory {
 public:
  NcclMemory(std::shared_ptr<WindowRegistry> registry, std::size_t bytes)
      : registry_(std::move(registry)), bytes_(bytes), data_(registry_->allocate(bytes)) {}
  ~NcclMemory() {
    if (!owner_.is_current()) {
      native::leave_alone(std::move(registry_));
    } else if (data_ != nullptr) {
      registry_->free(data_, window_);
    }
  }
  NcclMemory(const NcclMemory&) = delete;
  NcclMemory& operator=(const NcclMemory&) = delete;

  /// Null where there was none left.
  [[nodiscard]] void* data() const noexcept { return data_; }
  /// See `WindowRegistry::register_window`.
  void register_window(bool is_symmetric, const Deadline& deadline) {
    window_ = registry_->register_window(data_, bytes_, is_symmetric, deadline);
  }

 private:
  std::shared_ptr<WindowRegistry> registry_;
  std::size_t bytes_;
  void* data_;
  native::NcclWindow window_ = nullptr;
  native::OwningProcess owner_;
};

}  // namespace lockstep

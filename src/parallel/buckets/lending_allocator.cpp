// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/lending_allocator.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace lockstep {
namespace {

// Arenas that lend to this thread, open or not. The number is a plain word beside them, so that
// whoever allocates while the thread ends finds 0 instead of a vector that is gone.
thread_local std::size_t lenders = 0;

struct Lenders {
  std::vector<std::weak_ptr<GradientArena>> arenas;
  ~Lenders() { lenders = 0; }
};

Lenders& lenders_of_this_thread() {
  thread_local Lenders own;
  return own;
}

/// Forgets arenas that lend nothing any more.
void tidy() {
  auto& arenas = lenders_of_this_thread().arenas;
  std::erase_if(arenas, [](const std::weak_ptr<GradientArena>& weak) {
    const auto arena = weak.lock();
    return !arena || !arena->is_open();
  });
  lenders = arenas.size();
}

/// What LibTorch had before. Set once, before anything can be lent.
c10::Allocator* underlying = nullptr;

/// Of pointers that LibTorch keeps without their owner (oneDNN's memory).
void free_raw(void* data) {
  if (!GradientArena::give_back(data)) underlying->raw_deleter()(data);
}

class LendingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (lenders != 0) [[unlikely]] {
      if (c10::DataPtr lent = lend(bytes)) return lent;
    }
    return underlying->allocate(bytes);
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override {
    return underlying->raw_deleter() == nullptr ? nullptr : &free_raw;
  }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    underlying->copy_data(target, source, bytes);
  }

 private:
  static c10::DataPtr lend(std::size_t bytes) {
    bool are_all_open = true;
    for (const auto& weak : lenders_of_this_thread().arenas) {
      const auto arena = weak.lock();
      if (!arena || !arena->is_open()) {
        are_all_open = false;
      } else if (c10::DataPtr lent = arena->lend(bytes)) {
        return lent;
      }
    }
    if (!are_all_open) tidy();
    return {};
  }
};

}  // namespace

void install_lending_allocator() {
  // Never destroyed: tensors that outlive everything refer to it.
  static auto* const allocator = [] {
    underlying = c10::GetCPUAllocator();
    auto* const made = new LendingAllocator;
    c10::SetCPUAllocator(made);
    return made;
  }();
  static_cast<void>(allocator);
}

c10::Allocator& ordinary_cpu_allocator() {
  return underlying != nullptr ? *underlying : *c10::GetCPUAllocator();
}

void lend_to_this_thread(const std::shared_ptr<GradientArena>& arena) {
  install_lending_allocator();
  tidy();
  arena->open();
  auto& arenas = lenders_of_this_thread().arenas;
  const bool is_known = std::any_of(arenas.begin(), arenas.end(), [&](const auto& weak) {
    return !weak.owner_before(arena) && !arena.owner_before(weak);
  });
  if (!is_known) arenas.push_back(arena);
  lenders = arenas.size();
}

}  // namespace lockstep

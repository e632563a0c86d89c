// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/buckets/arena_allocator.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace lockstep {
namespace {

// How many arenas this thread allocates in, open or not. The number is a plain word beside the
// list, so that whoever allocates while the thread ends finds 0 instead of a list that is gone.
thread_local std::size_t arenas_in_use = 0;

struct ThreadArenas {
  std::vector<std::weak_ptr<GradientArena>> list;
  ~ThreadArenas() { arenas_in_use = 0; }
};

std::vector<std::weak_ptr<GradientArena>>& arenas_of_this_thread() {
  thread_local ThreadArenas own;
  return own.list;
}

/// Forgets arenas that are closed or gone.
void tidy() {
  auto& arenas = arenas_of_this_thread();
  std::erase_if(arenas, [](const std::weak_ptr<GradientArena>& weak) {
    const auto arena = weak.lock();
    return !arena || !arena->is_open();
  });
  arenas_in_use = arenas.size();
}

/// What LibTorch had before. It is set once, before any arena is used.
c10::Allocator* underlying = nullptr;

/// Frees a pointer that LibTorch keeps without its owner, as oneDNN's memory.
void free_raw(void* data) {
  if (!GradientArena::free(data)) underlying->raw_deleter()(data);
}

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (arenas_in_use != 0) [[unlikely]] {
      if (c10::DataPtr block = allocate_in_arena(bytes)) return block;
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
  static c10::DataPtr allocate_in_arena(std::size_t bytes) {
    bool are_all_open = true;
    for (const auto& weak : arenas_of_this_thread()) {
      const auto arena = weak.lock();
      if (!arena || !arena->is_open()) {
        are_all_open = false;
      } else if (c10::DataPtr block = arena->allocate(bytes)) {
        return block;
      }
    }
    if (!are_all_open) tidy();
    return {};
  }
};

}  // namespace

void install_arena_allocator() {
  // Never destroyed: tensors that outlive everything refer to it.
  static auto* const allocator = [] {
    underlying = c10::GetCPUAllocator();
    auto* const made = new ArenaAllocator;
    c10::SetCPUAllocator(made);
    return made;
  }();
  static_cast<void>(allocator);
}

c10::Allocator& ordinary_cpu_allocator() {
  return underlying != nullptr ? *underlying : *c10::GetCPUAllocator();
}

void allocate_in_this_thread(const std::shared_ptr<GradientArena>& arena) {
  install_arena_allocator();
  tidy();
  arena->open();
  auto& arenas = arenas_of_this_thread();
  const bool is_known = std::any_of(arenas.begin(), arenas.end(), [&](const auto& weak) {
    return !weak.owner_before(arena) && !arena.owner_before(weak);
  });
  if (!is_known) arenas.push_back(arena);
  arenas_in_use = arenas.size();
}

}  // namespace lockstep

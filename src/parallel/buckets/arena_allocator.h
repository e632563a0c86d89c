// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Allocator.h>

#include <memory>

#include "parallel/buckets/gradient_arena.h"

namespace lockstep {

/// Puts an allocator in front of LibTorch's, for the whole process and for good: tensors remember
/// the allocator that made them. It passes every request on, except in threads that call
/// `allocate_in_this_thread`. A program that sets an allocator of its own later
/// (`c10::SetCPUAllocator`) takes it away again; gradients are copied then. The second call does
/// nothing.
/// Thread-safety: any thread.
void install_arena_allocator();

/// LibTorch's own allocator, which never allocates in an arena.
[[nodiscard]] c10::Allocator& ordinary_cpu_allocator();

/// From now on CPU tensors of a gradient's size that this thread makes are allocated in the arena,
/// until it is closed or gone. All other memory comes from LibTorch's allocator as ever.
/// Thread-safety: any thread.
void allocate_in_this_thread(const std::shared_ptr<GradientArena>& arena);

}  // namespace lockstep

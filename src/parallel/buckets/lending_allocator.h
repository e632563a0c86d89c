// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Allocator.h>

#include <memory>

#include "parallel/buckets/gradient_arena.h"

namespace lockstep {

/// Puts an allocator in front of LibTorch's, for the whole process and for good: tensors remember
/// the allocator that made them. It passes everything on, except in threads that call the next
/// function. A program that sets an allocator of its own later (`c10::SetCPUAllocator`) takes it
/// away again; gradients are copied then. The second call does nothing.
/// Thread-safety: any thread.
void install_lending_allocator();

/// LibTorch's allocator, which lends nothing.
[[nodiscard]] c10::Allocator& ordinary_cpu_allocator();

/// Has this thread's CPU tensors of a gradient's size be allocated in the arena, from now until it
/// is closed or gone. All other memory comes from LibTorch's allocator as ever.
/// Thread-safety: any thread.
void lend_to_this_thread(const std::shared_ptr<GradientArena>& arena);

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <lockstep/core/export.h>
#include <lockstep/parallel/communication_hook.h>

namespace lockstep::hooks {

/// Does what happens without a hook: one all-reduce of the bucket where it lies. Hooks that call
/// another hook may call this one.
///
/// Sends: for a bucket of N bytes what an all-reduce of N bytes does, 2 N (W-1)/W a rank on MPI.
/// Thread-safety: hooks of this file keep nothing; as the group's, one thread at a time.
[[nodiscard]] LOCKSTEP_API CommunicationHook all_reduce();

/// Casts each bucket to `dtype`, gives it to `inner`, and casts what that returns back.
///
/// `inner` sees a bucket of `dtype` with the same places, parameters, index and `plan()`. So hooks
/// can be laid around each other: `compress(at::kBFloat16, PowerSgd(options))` sends factors of two
/// bytes an element. Buckets whose elements are not larger than `dtype` go to `inner` as they are.
/// Half ends at 65504, where a gradient becomes infinite; BFloat16 ends where Float does, and has
/// eight bits.
///
/// Shapes: buckets of Float, Double, Half, BFloat16.
/// Sends: as `inner` for N/2 bytes of a Float bucket of N, N/4 of a Double one.
/// Thread-safety: as `inner`.
/// Owns: nothing between two buckets.
/// Throws: `c10::Error` for a `dtype` other than Half, BFloat16, Float, for an empty `inner`, and
/// from backward for buckets of other dtypes.
[[nodiscard]] LOCKSTEP_API CommunicationHook compress(at::ScalarType dtype,
                                                      CommunicationHook inner = all_reduce());

/// `compress` to Half and an all-reduce. On the CPU the sum is accumulated in float, divided by the
/// number of ranks, and rounded once: it cannot overflow where the average does not.
///
/// Source: the hook of this name in PyTorch, which divides before it adds.
[[nodiscard]] LOCKSTEP_API CommunicationHook fp16_compress();
/// `compress` to BFloat16 and an all-reduce, as `fp16_compress`.
[[nodiscard]] LOCKSTEP_API CommunicationHook bf16_compress();

}  // namespace lockstep::hooks

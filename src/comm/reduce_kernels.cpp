// SPDX-License-Identifier: BSD-3-Clause
#include "comm/reduce_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>

// The same loops, compiled once for each vector width and chosen when the program starts. Each
// element sees the same operations in every copy (no contraction into fused multiply-add: see
// CMakeLists.txt), so the bits are the same. Sanitizers instrument the choosing function, which
// runs before they are ready.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define LOCKSTEP_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LOCKSTEP_VECTORISED
#endif

namespace lockstep {
namespace {

// Small enough for the first-level cache beside what streams through it.
constexpr std::size_t kBlock = 2048;

template <typename T>
using Accumulator =
    std::conditional_t<std::is_same_v<T, c10::Half> || std::is_same_v<T, c10::BFloat16>, float, T>;

template <ReduceOp op, typename A>
[[gnu::always_inline]] inline A combine(A left, A right) {
  if constexpr (op == ReduceOp::Min) {
    // As torch.minimum: a NaN wins, wherever it stands.
    return (left < right || left != left) ? left : right;
  } else if constexpr (op == ReduceOp::Max) {
    return (left > right || left != left) ? left : right;
  } else if constexpr (std::is_integral_v<A>) {
    // Wraps around like PyTorch's integers, and without undefined behaviour.
    using Unsigned = std::make_unsigned_t<A>;
    return static_cast<A>(
        static_cast<Unsigned>(static_cast<Unsigned>(left) + static_cast<Unsigned>(right)));
  } else {
    return left + right;
  }
}

template <typename T, ReduceOp op>
[[gnu::always_inline]] inline void reduce_blocks(const void* const* inputs, std::size_t ranks,
                                                 void* const* outputs, std::size_t output_count,
                                                 std::size_t elements) {
  using A = Accumulator<T>;
  const A scale = static_cast<A>(1) / static_cast<A>(ranks);
  alignas(64) A sum[kBlock];
  for (std::size_t start = 0; start < elements; start += kBlock) {
    const std::size_t count = std::min(kBlock, elements - start);
    const T* first = static_cast<const T*>(inputs[0]) + start;
    for (std::size_t i = 0; i < count; ++i) sum[i] = static_cast<A>(first[i]);
    for (std::size_t rank = 1; rank < ranks; ++rank) {
      const T* next = static_cast<const T*>(inputs[rank]) + start;
      for (std::size_t i = 0; i < count; ++i) {
        sum[i] = combine<op, A>(sum[i], static_cast<A>(next[i]));
      }
    }
    if constexpr (op == ReduceOp::Avg) {
      for (std::size_t i = 0; i < count; ++i) sum[i] *= scale;
    }
    for (std::size_t k = 0; k < output_count; ++k) {
      T* out = static_cast<T*>(outputs[k]) + start;
      for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<T>(sum[i]);
    }
  }
}

using Kernel = void (*)(const void* const*, std::size_t, void* const*, std::size_t, std::size_t);

// target_clones does not work on templates, hence one plain function for each pair.
#define LOCKSTEP_KERNEL(T, name, op)                                            \
  LOCKSTEP_VECTORISED void name(const void* const* inputs, std::size_t ranks,   \
                                void* const* outputs, std::size_t output_count, \
                                std::size_t elements) {                         \
    reduce_blocks<T, op>(inputs, ranks, outputs, output_count, elements);       \
  }
#define LOCKSTEP_INTEGER_KERNELS(T, name)       \
  LOCKSTEP_KERNEL(T, sum_##name, ReduceOp::Sum) \
  LOCKSTEP_KERNEL(T, min_##name, ReduceOp::Min) \
  LOCKSTEP_KERNEL(T, max_##name, ReduceOp::Max)
#define LOCKSTEP_FLOATING_KERNELS(T, name) \
  LOCKSTEP_INTEGER_KERNELS(T, name)        \
  LOCKSTEP_KERNEL(T, avg_##name, ReduceOp::Avg)

LOCKSTEP_FLOATING_KERNELS(float, f32)
LOCKSTEP_FLOATING_KERNELS(double, f64)
LOCKSTEP_FLOATING_KERNELS(c10::Half, f16)
LOCKSTEP_FLOATING_KERNELS(c10::BFloat16, bf16)
LOCKSTEP_INTEGER_KERNELS(std::int8_t, i8)
LOCKSTEP_INTEGER_KERNELS(std::uint8_t, u8)
LOCKSTEP_INTEGER_KERNELS(std::int16_t, i16)
LOCKSTEP_INTEGER_KERNELS(std::int32_t, i32)
LOCKSTEP_INTEGER_KERNELS(std::int64_t, i64)

struct Row {
  at::ScalarType dtype;
  Kernel sum, avg, min, max;
};

#define LOCKSTEP_FLOATING_ROW(dtype, name)                    \
  Row {                                                       \
    at::dtype, sum_##name, avg_##name, min_##name, max_##name \
  }
#define LOCKSTEP_INTEGER_ROW(dtype, name)                  \
  Row {                                                    \
    at::dtype, sum_##name, nullptr, min_##name, max_##name \
  }

const std::array kTable{
    LOCKSTEP_FLOATING_ROW(kFloat, f32), LOCKSTEP_FLOATING_ROW(kDouble, f64),
    LOCKSTEP_FLOATING_ROW(kHalf, f16),  LOCKSTEP_FLOATING_ROW(kBFloat16, bf16),
    LOCKSTEP_INTEGER_ROW(kChar, i8),    LOCKSTEP_INTEGER_ROW(kByte, u8),
    LOCKSTEP_INTEGER_ROW(kShort, i16),  LOCKSTEP_INTEGER_ROW(kInt, i32),
    LOCKSTEP_INTEGER_ROW(kLong, i64),
};

Kernel find_kernel(at::ScalarType dtype, ReduceOp op) {
  for (const Row& row : kTable) {
    if (row.dtype != dtype) continue;
    switch (op) {
      case ReduceOp::Sum:
        return row.sum;
      case ReduceOp::Avg:
        return row.avg;
      case ReduceOp::Min:
        return row.min;
      case ReduceOp::Max:
        return row.max;
    }
  }
  return nullptr;
}

}  // namespace

bool can_reduce(at::ScalarType dtype, ReduceOp op) {
  return find_kernel(dtype, op) != nullptr;
}

void reduce_ranks(at::ScalarType dtype, ReduceOp op, std::span<const void* const> inputs,
                  std::span<void* const> outputs, std::size_t elements) {
  const Kernel kernel = find_kernel(dtype, op);
  TORCH_INTERNAL_ASSERT(kernel != nullptr && !inputs.empty());
  kernel(inputs.data(), inputs.size(), outputs.data(), outputs.size(), elements);
}

}  // namespace lockstep

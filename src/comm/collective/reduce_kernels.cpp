// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/reduce_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>

#include <algorithm>
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

using Kind = ReduceOp::Kind;

// Small enough for the first-level cache beside what streams through it.
constexpr std::size_t kBlock = 2048;

template <typename T>
constexpr bool kIsShortFloat =
    std::is_same_v<T, c10::Half> || std::is_same_v<T, c10::BFloat16> ||
    std::is_same_v<T, c10::Float8_e4m3fn> || std::is_same_v<T, c10::Float8_e5m2>;

template <typename T>
using Accumulator = std::conditional_t<kIsShortFloat<T>, float, T>;

// Wraps around, as PyTorch's integers do, without undefined behaviour.
template <Kind kind, typename A>
[[gnu::always_inline]] inline A combine_integers(A left, A right) {
  // 64 bits, so that no product of short integers overflows an int.
  const auto a = static_cast<std::uint64_t>(left);
  const auto b = static_cast<std::uint64_t>(right);
  if constexpr (kind == Kind::BitAnd) return static_cast<A>(a & b);
  if constexpr (kind == Kind::BitOr) return static_cast<A>(a | b);
  if constexpr (kind == Kind::BitXor) return static_cast<A>(a ^ b);
  if constexpr (kind == Kind::Product) return static_cast<A>(a * b);
  return static_cast<A>(a + b);
}

template <Kind kind, typename A>
[[gnu::always_inline]] inline A combine(A left, A right) {
  if constexpr (kind == Kind::Min) {
    // A NaN wins, whichever side it is on, as in torch.minimum.
    return (left < right || left != left) ? left : right;
  } else if constexpr (kind == Kind::Max) {
    return (left > right || left != left) ? left : right;
  } else if constexpr (std::is_integral_v<A>) {
    return combine_integers<kind, A>(left, right);
  } else if constexpr (kind == Kind::Product) {
    return left * right;
  } else {
    return left + right;
  }
}

/// What one kernel call does. Arrays are of `elements` elements.
struct Job {
  std::span<const void* const> inputs;  // in rank order
  std::span<void* const> outputs;
  std::size_t elements;
  double factor;                 // of PreMulSum
  std::size_t world_size;        // of Avg
  const void* before = nullptr;  // accumulators of the ranks before the inputs
  void* after = nullptr;         // takes the accumulators, and no output is written
};

/// The factors of PreMulSum, for each value before it is added, and of Avg, for the sum.
template <typename A, Kind kind>
A scale_of(const Job& job) {
  using Real = typename c10::scalar_value_type<A>::type;
  if constexpr (kind == Kind::Avg) {
    return static_cast<A>(static_cast<Real>(1) / static_cast<Real>(job.world_size));
  } else {
    return static_cast<A>(static_cast<Real>(job.factor));
  }
}

template <typename T, Kind kind, typename A>
[[gnu::always_inline]] inline void write_block(const Job& job, std::size_t start, std::size_t count,
                                               A* sum, [[maybe_unused]] A scale) {
  if (job.after != nullptr) {
    std::copy_n(sum, count, static_cast<A*>(job.after) + start);
    return;
  }
  if constexpr (kind == Kind::Avg) {
    for (std::size_t i = 0; i < count; ++i) sum[i] *= scale;
  }
  for (void* const output : job.outputs) {
    T* out = static_cast<T*>(output) + start;
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<T>(sum[i]);
  }
}

template <typename T, Kind kind>
[[gnu::always_inline]] inline void reduce_blocks(const Job& job) {
  using A = Accumulator<T>;
  [[maybe_unused]] A scale{};
  if constexpr (kind == Kind::Avg || kind == Kind::PreMulSum) scale = scale_of<A, kind>(job);
  const auto read = [scale](T value) {
    if constexpr (kind == Kind::PreMulSum) return static_cast<A>(value) * scale;
    return static_cast<A>(value);
  };
  alignas(64) A sum[kBlock];
  for (std::size_t start = 0; start < job.elements; start += kBlock) {
    const std::size_t count = std::min(kBlock, job.elements - start);
    std::size_t rank = 0;
    if (job.before != nullptr) {
      std::copy_n(static_cast<const A*>(job.before) + start, count, sum);
    } else {
      const T* first = static_cast<const T*>(job.inputs[rank++]) + start;
      for (std::size_t i = 0; i < count; ++i) sum[i] = read(first[i]);
    }
    for (; rank < job.inputs.size(); ++rank) {
      const T* next = static_cast<const T*>(job.inputs[rank]) + start;
      for (std::size_t i = 0; i < count; ++i) sum[i] = combine<kind, A>(sum[i], read(next[i]));
    }
    write_block<T, kind, A>(job, start, count, sum, scale);
  }
}

using Kernel = void (*)(const Job&);

// target_clones does not work on templates, hence one plain function for each pair that is worth
// it: what gradients and counters are made of.
#define LOCKSTEP_KERNEL(T, kind, name)            \
  LOCKSTEP_VECTORISED void name(const Job& job) { \
    reduce_blocks<T, kind>(job);                  \
  }
LOCKSTEP_KERNEL(float, Kind::Sum, sum_f32)
LOCKSTEP_KERNEL(float, Kind::Avg, avg_f32)
LOCKSTEP_KERNEL(float, Kind::PreMulSum, scaled_f32)
LOCKSTEP_KERNEL(float, Kind::Min, min_f32)
LOCKSTEP_KERNEL(float, Kind::Max, max_f32)
LOCKSTEP_KERNEL(double, Kind::Sum, sum_f64)
LOCKSTEP_KERNEL(double, Kind::Avg, avg_f64)
LOCKSTEP_KERNEL(c10::Half, Kind::Sum, sum_f16)
LOCKSTEP_KERNEL(c10::Half, Kind::Avg, avg_f16)
LOCKSTEP_KERNEL(c10::BFloat16, Kind::Sum, sum_bf16)
LOCKSTEP_KERNEL(c10::BFloat16, Kind::Avg, avg_bf16)
LOCKSTEP_KERNEL(std::int32_t, Kind::Sum, sum_i32)
LOCKSTEP_KERNEL(std::int64_t, Kind::Sum, sum_i64)

Kernel find_vectorised(at::ScalarType dtype, Kind kind) {
  struct Row {
    at::ScalarType dtype;
    Kind kind;
    Kernel kernel;
  };
  static constexpr Row kTable[] = {
      {at::kFloat, Kind::Sum, sum_f32},          {at::kFloat, Kind::Avg, avg_f32},
      {at::kFloat, Kind::PreMulSum, scaled_f32}, {at::kFloat, Kind::Min, min_f32},
      {at::kFloat, Kind::Max, max_f32},          {at::kDouble, Kind::Sum, sum_f64},
      {at::kDouble, Kind::Avg, avg_f64},         {at::kHalf, Kind::Sum, sum_f16},
      {at::kHalf, Kind::Avg, avg_f16},           {at::kBFloat16, Kind::Sum, sum_bf16},
      {at::kBFloat16, Kind::Avg, avg_bf16},      {at::kInt, Kind::Sum, sum_i32},
      {at::kLong, Kind::Sum, sum_i64},
  };
  for (const Row& row : kTable) {
    if (row.dtype == dtype && row.kind == kind) return row.kernel;
  }
  return nullptr;
}

// All others, for the width that every machine has.
template <typename T, Kind kind>
void plain(const Job& job) {
  reduce_blocks<T, kind>(job);
}

template <typename T>
Kernel find_integer(Kind kind) {
  switch (kind) {
    case Kind::Sum:
      return plain<T, Kind::Sum>;
    case Kind::Product:
      return plain<T, Kind::Product>;
    case Kind::Min:
      return plain<T, Kind::Min>;
    case Kind::Max:
      return plain<T, Kind::Max>;
    case Kind::BitAnd:
      return plain<T, Kind::BitAnd>;
    case Kind::BitOr:
      return plain<T, Kind::BitOr>;
    case Kind::BitXor:
      return plain<T, Kind::BitXor>;
    default:
      return nullptr;
  }
}

template <typename T>
Kernel find_sum(Kind kind) {
  switch (kind) {
    case Kind::Sum:
      return plain<T, Kind::Sum>;
    case Kind::Avg:
      return plain<T, Kind::Avg>;
    case Kind::Product:
      return plain<T, Kind::Product>;
    case Kind::PreMulSum:
      return plain<T, Kind::PreMulSum>;
    default:
      return nullptr;
  }
}

template <typename T>
Kernel find_floating(Kind kind) {
  switch (kind) {
    case Kind::Min:
      return plain<T, Kind::Min>;
    case Kind::Max:
      return plain<T, Kind::Max>;
    default:
      return find_sum<T>(kind);
  }
}

// One byte that is 0 or 1.
Kernel find_bool(Kind kind) {
  switch (kind) {
    case Kind::Sum:
    case Kind::Max:
    case Kind::BitOr:
      return plain<std::uint8_t, Kind::BitOr>;
    case Kind::Product:
    case Kind::Min:
    case Kind::BitAnd:
      return plain<std::uint8_t, Kind::BitAnd>;
    case Kind::BitXor:
      return plain<std::uint8_t, Kind::BitXor>;
    default:
      return nullptr;
  }
}

Kernel find_kernel(at::ScalarType dtype, Kind kind) {
  if (const Kernel kernel = find_vectorised(dtype, kind)) return kernel;
  switch (dtype) {
    case at::kFloat:
      return find_floating<float>(kind);
    case at::kDouble:
      return find_floating<double>(kind);
    case at::kHalf:
      return find_floating<c10::Half>(kind);
    case at::kBFloat16:
      return find_floating<c10::BFloat16>(kind);
    case at::kFloat8_e4m3fn:
      return find_floating<c10::Float8_e4m3fn>(kind);
    case at::kFloat8_e5m2:
      return find_floating<c10::Float8_e5m2>(kind);
    case at::kComplexFloat:
      return find_sum<c10::complex<float>>(kind);
    case at::kComplexDouble:
      return find_sum<c10::complex<double>>(kind);
    case at::kChar:
      return find_integer<std::int8_t>(kind);
    case at::kByte:
      return find_integer<std::uint8_t>(kind);
    case at::kShort:
      return find_integer<std::int16_t>(kind);
    case at::kInt:
      return find_integer<std::int32_t>(kind);
    case at::kLong:
      return find_integer<std::int64_t>(kind);
    case at::kBool:
      return find_bool(kind);
    default:
      return nullptr;
  }
}

}  // namespace

bool can_reduce(at::ScalarType dtype, ReduceOp op) {
  return find_kernel(dtype, op.kind()) != nullptr;
}

std::size_t accumulator_bytes(at::ScalarType dtype) {
  const bool is_short = dtype == at::kHalf || dtype == at::kBFloat16 ||
                        dtype == at::kFloat8_e4m3fn || dtype == at::kFloat8_e5m2;
  return is_short ? sizeof(float) : c10::elementSize(dtype);
}

void reduce_ranks(at::ScalarType dtype, ReduceOp op, std::span<const void* const> inputs,
                  std::span<void* const> outputs, std::size_t elements) {
  const Kernel kernel = find_kernel(dtype, op.kind());
  TORCH_INTERNAL_ASSERT(kernel != nullptr && !inputs.empty());
  kernel({inputs, outputs, elements, op.factor(), inputs.size()});
}

void reduce_some_ranks(at::ScalarType dtype, ReduceOp op, const void* before,
                       std::span<const void* const> inputs, void* after, std::size_t elements) {
  const Kernel kernel = find_kernel(dtype, op.kind());
  TORCH_INTERNAL_ASSERT(kernel != nullptr && !inputs.empty() && after != nullptr);
  kernel({inputs, {}, elements, op.factor(), 1, before, after});
}

void reduce_last_ranks(at::ScalarType dtype, ReduceOp op, const void* before,
                       std::span<const void* const> inputs, void* output, std::size_t elements,
                       int world_size) {
  const Kernel kernel = find_kernel(dtype, op.kind());
  TORCH_INTERNAL_ASSERT(kernel != nullptr && !inputs.empty());
  kernel({inputs, std::span(&output, 1), elements, op.factor(),
          static_cast<std::size_t>(world_size), before});
}

}  // namespace lockstep

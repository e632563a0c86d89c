// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

/// How values of different ranks become one. On the CPU they are combined in rank order, so that
/// every rank, every run and every backend gets the same bits; Half, BFloat16 and the 8-bit floats
/// are accumulated in float and rounded once.
///
/// Which dtypes an operation takes: docs/process_groups.md. Bool counts as one bit, as in PyTorch:
/// Sum, Max and BitOr are "any", Product, Min and BitAnd are "all".
///
/// Thread-safety: a value.
class LOCKSTEP_API ReduceOp {
 public:
  /// The operation without its factor; see the constants of the same names.
  enum class Kind : std::uint8_t {
    Sum,        ///< `ReduceOp::Sum`
    Avg,        ///< `ReduceOp::Avg`
    Product,    ///< `ReduceOp::Product`
    Min,        ///< `ReduceOp::Min`
    Max,        ///< `ReduceOp::Max`
    BitAnd,     ///< `ReduceOp::BitAnd`
    BitOr,      ///< `ReduceOp::BitOr`
    BitXor,     ///< `ReduceOp::BitXor`
    PreMulSum,  ///< `ReduceOp::PreMulSum`
  };

  static const ReduceOp Sum;      ///< a + b
  static const ReduceOp Avg;      ///< the sum, multiplied by 1 / world size; no integers
  static const ReduceOp Product;  ///< a * b
  static const ReduceOp Min;      ///< of numbers with an order; a NaN on any rank wins
  static const ReduceOp Max;      ///< likewise
  static const ReduceOp BitAnd;   ///< of integers and Bool, like the two below
  static const ReduceOp BitOr;    ///< bits that are set on any rank
  static const ReduceOp BitXor;   ///< bits that are set on an odd number of ranks
  /// Every rank's values times `factor`, then the sum; no integers. The factor is the same on all
  /// ranks.
  [[nodiscard]] static constexpr ReduceOp PreMulSum(double factor) {
    return {Kind::PreMulSum, factor};
  }

  /// Which operation it is.
  [[nodiscard]] constexpr Kind kind() const noexcept { return kind_; }
  /// The factor of PreMulSum; 1 for all other operations.
  [[nodiscard]] constexpr double factor() const noexcept { return factor_; }
  constexpr bool operator==(const ReduceOp&) const = default;

 private:
  constexpr ReduceOp(Kind kind, double factor) : kind_(kind), factor_(factor) {}

  Kind kind_;
  double factor_;
};

inline constexpr ReduceOp ReduceOp::Sum{Kind::Sum, 1};
inline constexpr ReduceOp ReduceOp::Avg{Kind::Avg, 1};
inline constexpr ReduceOp ReduceOp::Product{Kind::Product, 1};
inline constexpr ReduceOp ReduceOp::Min{Kind::Min, 1};
inline constexpr ReduceOp ReduceOp::Max{Kind::Max, 1};
inline constexpr ReduceOp ReduceOp::BitAnd{Kind::BitAnd, 1};
inline constexpr ReduceOp ReduceOp::BitOr{Kind::BitOr, 1};
inline constexpr ReduceOp ReduceOp::BitXor{Kind::BitXor, 1};

/// How the ranks of a group communicate.
enum class Backend {
  Auto,          ///< chosen from the launch and the GPUs; a line in the log says what and why
  Single,        ///< a world of one; every collective is done at once
  SharedMemory,  ///< ranks of one host
  Mpi,           ///< whatever MPI reaches
  Hierarchical,  ///< shared memory inside a host, TCP between hosts
  Gloo,          ///< TCP, by the gloo that LibTorch brings; for launches without MPI
  Nccl,          ///< NCCL for CUDA tensors, and one of the others for those of the CPU
};

/// "Sum", "PreMulSum(0.5)".
[[nodiscard]] LOCKSTEP_API std::string to_string(ReduceOp op);
/// "SharedMemory", "Mpi": the enumerator's name.
[[nodiscard]] LOCKSTEP_API std::string_view to_string(Backend backend);

}  // namespace lockstep

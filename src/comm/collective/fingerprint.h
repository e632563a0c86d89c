// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

namespace lockstep {

enum class CollectiveOp : std::uint8_t {
  AllReduce = 1,
  Broadcast,
  Reduce,
  AllGather,
  ReduceScatter,
  AllToAll,
  Gather,
  Scatter,
  Barrier
};
[[nodiscard]] const char* to_string(CollectiveOp op);

/// What the program calls a call, as far as it can be shown; the rest is in the hash.
struct CallName {
  std::array<char, 24> text{};  ///< ends with a zero where it is shorter
  std::uint64_t hash = 0;       ///< of a longer name; 0: no name

  [[nodiscard]] static CallName of(const std::string& name);
  bool operator==(const CallName&) const = default;
};

/// What a rank says it is about to do. Ranks compare these before they touch each other's data.
/// Holds no torch. As large as a cache line, so that reading another rank's costs one transfer.
struct Fingerprint {
  CollectiveOp op = CollectiveOp::Barrier;
  std::uint8_t dtype = 0;      ///< at::ScalarType
  std::uint8_t reduce_op = 0;  ///< ReduceOp::Kind
  std::uint8_t is_in_group_memory = 0;
  std::int32_t root = 0;
  std::uint64_t elements = 0;  ///< of a barrier: the bytes of a joint allocation, else 0
  std::uint64_t details = 0;   ///< a hash of what is unusual: strides, uneven sizes, a factor
  std::uint64_t place = 0;     ///< where in the group memory
  CallName name;

  bool operator==(const Fingerprint&) const = default;
};

static_assert(sizeof(Fingerprint) == 64);

/// All of it in one number: ranks whose numbers are the same need not read each other's.
/// `has_place`: whether the place in group memory counts.
[[nodiscard]] std::uint64_t digest_of(const Fingerprint& fingerprint, bool has_place);

/// Adds one number to a hash of details; the order counts.
[[nodiscard]] std::uint64_t mix(std::uint64_t hash, std::uint64_t value);

/// "all_reduce (Sum) of 10 x Float".
[[nodiscard]] std::string describe(const Fingerprint& fingerprint);

/// Compares what all ranks are about to do.
/// `is_place_compared`: whether the tensors must also lie at the same place of the group memory.
/// Throws: `OperationFailure` that names the first rank that differs from rank 0.
void check_fingerprints(int world_size, const std::function<Fingerprint(int rank)>& of,
                        bool is_place_compared = true);

}  // namespace lockstep

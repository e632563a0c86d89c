// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

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

/// The name that the program gave a call: its beginning, to be shown, and a hash of the whole.
struct CallName {
  std::array<char, 24> text{};  ///< ends with a zero where it is shorter
  std::uint64_t hash = 0;       ///< of the whole name; 0: no name

  [[nodiscard]] static CallName of(const std::string& name);
  bool operator==(const CallName&) const = default;
};

/// What a rank says it is about to do. Ranks compare these before they touch each other's data.
/// Holds no torch. As large as a cache line, so that reading another rank's costs one transfer.
struct Fingerprint {
  CollectiveOp op = CollectiveOp::Barrier;
  std::uint8_t dtype = 0;      ///< at::ScalarType
  std::uint8_t reduce_op = 0;  ///< ReduceOp::Kind
  std::uint8_t is_registered = 0;
  std::int32_t root = 0;
  std::uint64_t elements = 0;  ///< in a barrier: the bytes of a joint allocation, else 0
  std::uint64_t details = 0;   ///< a hash of what is unusual: strides, uneven sizes, a factor
  std::uint64_t place = 0;     ///< where in registered memory
  CallName name;

  bool operator==(const Fingerprint&) const = default;
};

static_assert(sizeof(Fingerprint) == 64);

/// A hash of the fingerprint: ranks whose digests are the same need not read each other's
/// fingerprints.
/// `has_place`: whether the place in registered memory counts.
[[nodiscard]] std::uint64_t digest_of(const Fingerprint& fingerprint, bool has_place);

/// Adds one number to a hash of details; the order counts.
[[nodiscard]] std::uint64_t mix(std::uint64_t hash, std::uint64_t value);
/// The same on all ranks.
[[nodiscard]] std::uint64_t hash_of(std::string_view text);

/// "all_reduce (Sum) of 10 x Float".
[[nodiscard]] std::string describe(const Fingerprint& fingerprint);

/// Compares what all ranks are about to do.
/// `is_place_compared`: whether the tensors must also lie at the same place of registered memory.
/// Throws: `OperationFailure` that names the first rank that differs from rank 0.
void check_fingerprints(int world_size, const std::function<Fingerprint(int rank)>& of,
                        bool is_place_compared = true);

}  // namespace lockstep

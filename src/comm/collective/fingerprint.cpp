// SPDX-License-Identifier: BSD-3-Clause
#include "comm/collective/fingerprint.h"

#include <c10/core/ScalarType.h>
#include <lockstep/comm/types.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>
#include <type_traits>
#include <utility>

#include "comm/collective/operation.h"

namespace lockstep {
namespace {

bool has_reduction(CollectiveOp op) {
  return op == CollectiveOp::AllReduce || op == CollectiveOp::Reduce ||
         op == CollectiveOp::ReduceScatter;
}

bool has_root(CollectiveOp op) {
  return op == CollectiveOp::Broadcast || op == CollectiveOp::Reduce ||
         op == CollectiveOp::Gather || op == CollectiveOp::Scatter;
}

std::string name_of_reduction(std::uint8_t kind) {
  // The factor is in the details; two that differ show there.
  if (static_cast<ReduceOp::Kind>(kind) == ReduceOp::Kind::PreMulSum) return "PreMulSum";
  for (const ReduceOp op : {ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Product, ReduceOp::Min,
                            ReduceOp::Max, ReduceOp::BitAnd, ReduceOp::BitOr, ReduceOp::BitXor}) {
    if (static_cast<std::uint8_t>(op.kind()) == kind) return to_string(op);
  }
  return "unknown";
}

}  // namespace

const char* to_string(CollectiveOp op) {
  switch (op) {
    case CollectiveOp::AllReduce:
      return "all_reduce";
    case CollectiveOp::Broadcast:
      return "broadcast";
    case CollectiveOp::Reduce:
      return "reduce";
    case CollectiveOp::AllGather:
      return "all_gather";
    case CollectiveOp::ReduceScatter:
      return "reduce_scatter";
    case CollectiveOp::AllToAll:
      return "all_to_all";
    case CollectiveOp::Gather:
      return "gather";
    case CollectiveOp::Scatter:
      return "scatter";
    case CollectiveOp::Barrier:
      return "barrier";
  }
  return "unknown";
}

std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  // FNV-1a over words: enough to tell apart what honest programs call by mistake.
  return (hash == 0 ? 0xcbf29ce484222325 : hash) * 0x100000001b3 ^ value;
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 1;
  for (const char letter : text) hash = mix(hash, static_cast<unsigned char>(letter));
  return hash;
}

CallName CallName::of(const std::string& name) {
  CallName result;
  std::copy_n(name.begin(), std::min(name.size(), result.text.size()), result.text.begin());
  result.hash = hash_of(name);
  return result;
}

namespace {

std::string name_text(const CallName& name) {
  if (name.hash == 0) return "";
  const auto end = std::find(name.text.begin(), name.text.end(), '\0');
  return " named '" + std::string(name.text.begin(), end) + "'";
}

std::string describe_call(const Fingerprint& fingerprint) {
  if (fingerprint.op == CollectiveOp::Barrier) {
    if (fingerprint.elements == 0) return "barrier";
    return "allocate of " + std::to_string(fingerprint.elements) + " bytes";
  }
  std::ostringstream text;
  text << to_string(fingerprint.op);
  if (has_reduction(fingerprint.op))
    text << " (" << name_of_reduction(fingerprint.reduce_op) << ")";
  if (has_root(fingerprint.op)) {
    text << (fingerprint.op == CollectiveOp::Broadcast || fingerprint.op == CollectiveOp::Scatter
                 ? " from rank "
                 : " to rank ")
         << fingerprint.root;
  }
  text << " of " << fingerprint.elements << " x " << static_cast<at::ScalarType>(fingerprint.dtype);
  if (fingerprint.details != 0) {
    text << " with strides, sizes or a factor of its own (their hash is " << fingerprint.details
         << ")";
  }
  if (fingerprint.is_registered != 0) {
    text << " in registered memory (place " << fingerprint.place << ")";
  }
  return std::move(text).str();
}

}  // namespace

std::string describe(const Fingerprint& fingerprint) {
  return describe_call(fingerprint) + name_text(fingerprint.name);
}

std::uint64_t digest_of(const Fingerprint& fingerprint, bool has_place) {
  Fingerprint print = fingerprint;
  if (!has_place) print.is_registered = 0, print.place = 0;
  static_assert(std::has_unique_object_representations_v<Fingerprint>);
  std::array<std::uint64_t, sizeof(print) / sizeof(std::uint64_t)> words;
  std::memcpy(words.data(), &print, sizeof(print));
  std::uint64_t digest = 0x9e3779b97f4a7c15;
  for (const std::uint64_t word : words) {
    // Multiplying carries a difference upwards, the shift brings it down again.
    digest = (digest ^ word) * 0xff51afd7ed558ccd;
    digest ^= digest >> 32;
  }
  return digest;
}

void check_fingerprints(int world_size, const std::function<Fingerprint(int rank)>& of,
                        bool is_place_compared) {
  const auto fingerprint_of = [&](int rank) {
    Fingerprint print = of(rank);
    if (!is_place_compared) print.is_registered = 0, print.place = 0;
    return print;
  };
  const Fingerprint first = fingerprint_of(0);
  for (int rank = 1; rank < world_size; ++rank) {
    const Fingerprint other = fingerprint_of(rank);
    if (other == first) continue;
    // Two things that share the group, each in an order of its own.
    const bool are_other_things =
        first.name.hash != 0 && other.name.hash != 0 && !(first.name == other.name);
    throw OperationFailure{OperationFailure::Kind::Mismatch,
                           "rank 0 called " + describe(first) + ", rank " + std::to_string(rank) +
                               " called " + describe(other),
                           std::string("all ranks must make the same calls in the same order") +
                               (are_other_things ? "; models that ranks use in different "
                                                   "orders need a group each: split(0)"
                                                 : "")};
  }
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "fuzz/mutation.h"

#include <algorithm>
#include <array>
#include <random>

namespace lockstep::fuzz {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 17;

// Where counts, sizes and signs turn over.
constexpr std::array<std::uint64_t, 18> kEdges{
    0,          1,           7,          8,          0x7F,       0x80,
    0xFF,       0x7FFF,      0xFFFF,     0x10000,    0x7FFFFFFF, 0x80000000,
    0xFFFFFFFF, 0x100000000, 1ULL << 62, 1ULL << 63, ~0ULL >> 1, ~0ULL};

class Mutator {
 public:
  explicit Mutator(std::mt19937_64 random) : random_(random) {}

  void change(Bytes& bytes, const std::vector<Bytes>& seeds) {
    switch (below(11)) {
      case 0:
        return flip(bytes);
      case 1:
      case 2:
        return set_edge(bytes);
      case 3:
        if (!bytes.empty()) bytes[below(bytes.size())] = static_cast<std::uint8_t>(random_());
        return;
      case 4:
        return bytes.resize(below(bytes.size() + 1));
      case 5:
        return grow(bytes);
      case 6:
        return insert(bytes);
      case 7:
        return erase(bytes);
      case 8:
        return copy_within(bytes);
      case 9:
        return splice(bytes, seeds[below(seeds.size())]);
      default:
        return add(bytes);
    }
  }
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(random_() % count); }

 private:
  void flip(Bytes& bytes) {
    if (bytes.empty()) return;
    bytes[below(bytes.size())] ^= static_cast<std::uint8_t>(1U << below(8));
  }
  // A whole number of 1 to 8 bytes, in either order.
  void set_edge(Bytes& bytes) {
    const std::size_t width = std::size_t{1} << below(4);
    if (bytes.size() < width) return;
    const auto at = below(bytes.size() - width + 1);
    auto value = kEdges[below(kEdges.size())] + below(3) - 1;
    const bool is_big = below(2) == 0;
    for (std::size_t i = 0; i < width; ++i, value >>= 8) {
      bytes[at + (is_big ? width - 1 - i : i)] = static_cast<std::uint8_t>(value);
    }
  }
  void grow(Bytes& bytes) {
    bytes.resize(std::min(kMaxBytes, bytes.size() + 1 + below(600)),
                 static_cast<std::uint8_t>(below(2) * random_()));
  }
  void insert(Bytes& bytes) {
    if (bytes.size() >= kMaxBytes) return;
    const auto at = static_cast<std::ptrdiff_t>(below(bytes.size() + 1));
    bytes.insert(bytes.begin() + at, 1 + below(16), static_cast<std::uint8_t>(random_()));
  }
  void erase(Bytes& bytes) {
    if (bytes.empty()) return;
    const auto at = below(bytes.size());
    const auto count = std::min(bytes.size() - at, 1 + below(16));
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(count));
  }
  void copy_within(Bytes& bytes) {
    if (bytes.empty()) return;
    const auto from = below(bytes.size());
    const auto to = below(bytes.size());
    const auto count = std::min(bytes.size() - std::max(from, to), 1 + below(64));
    const Bytes part(bytes.begin() + static_cast<std::ptrdiff_t>(from),
                     bytes.begin() + static_cast<std::ptrdiff_t>(from + count));
    std::copy(part.begin(), part.end(), bytes.begin() + static_cast<std::ptrdiff_t>(to));
  }
  void splice(Bytes& bytes, const Bytes& other) {
    bytes.resize(below(bytes.size() + 1));
    const auto from = static_cast<std::ptrdiff_t>(below(other.size() + 1));
    bytes.insert(bytes.end(), other.begin() + from, other.end());
    if (bytes.size() > kMaxBytes) bytes.resize(kMaxBytes);
  }
  void add(Bytes& bytes) {
    if (bytes.empty()) return;
    auto& byte = bytes[below(bytes.size())];
    byte = static_cast<std::uint8_t>(byte + below(9) - 4);
  }

  std::mt19937_64 random_;
};

}  // namespace

Bytes mutated_input(const FuzzTarget& target, std::uint64_t number, std::uint64_t run) {
  std::seed_seq seeds{number, number >> 32, run, run >> 32};
  Mutator mutator{std::mt19937_64(seeds)};
  auto bytes = target.seeds[mutator.below(target.seeds.size())];
  for (auto changes = 1 + mutator.below(6); changes > 0; --changes) {
    mutator.change(bytes, target.seeds);
  }
  if (target.repair && mutator.below(4) != 0) target.repair(bytes);
  return bytes;
}

}  // namespace lockstep::fuzz

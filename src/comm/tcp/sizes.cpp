// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/sizes.h"

#include <algorithm>
#include <cstdint>

namespace lockstep {
namespace {

constexpr double kKiB = 1024;
// Frames that are longer keep a later one waiting behind them.
constexpr double kMaxSmallBytes = 256 * kKiB;
// The limits for two ranks.
constexpr double kShortPiece = 64 * kKiB;
constexpr double kLongPiece = 1024 * kKiB;
// A piece that travels as long as so many latencies hides the one of its own trip.
constexpr double kLatenciesAPiece = 24;

std::string in_kib(std::size_t bytes) {
  return std::to_string(bytes >> 10) + " KiB";
}

}  // namespace

TcpSizes TcpSizes::usual(int world_size) {
  // Of a network of 10 Gbit/s.
  return for_link(12e-6, 1.05e9, world_size);
}

TcpSizes TcpSizes::for_link(double latency, double bytes_per_second, int world_size) {
  if (world_size == 1) return {.small_bytes = SIZE_MAX, .piece_bytes = 0};  // nothing travels
  const double ranks = world_size;
  // One trip instead of two saves a latency. It sends N (W - 1) bytes instead of 2 N (W - 1) / W:
  // the same for two ranks.
  const double in_flight = latency * bytes_per_second;
  const double more_bytes = (ranks - 1) * (1 - 2 / ranks);
  const double small = more_bytes > 0 ? in_flight / more_bytes : kMaxSmallBytes;
  const double piece = std::clamp(kLatenciesAPiece * in_flight, kShortPiece, kLongPiece);
  return {.small_bytes = static_cast<std::size_t>(std::min(small, kMaxSmallBytes / (ranks - 1))),
          // The memory for pieces of all ranks together stays as small as that for two.
          .piece_bytes = static_cast<std::size_t>(std::max(kShortPiece / 4, 2 * piece / ranks))};
}

std::string TcpSizes::describe() const {
  return "up to " + in_kib(small_bytes) + " in one trip, more in pieces of up to " +
         in_kib(piece_bytes);
}

}  // namespace lockstep

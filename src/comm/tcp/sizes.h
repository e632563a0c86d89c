// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <string>

namespace lockstep {

/// How reductions over TCP are cut. The same on all ranks. Holds no torch.
struct TcpSizes {
  /// A tensor of so many bytes or fewer goes to all ranks at once, with its fingerprint.
  std::size_t small_bytes = 0;
  /// The longest piece of a longer one.
  std::size_t piece_bytes = 0;

  /// For links of which nothing is known.
  [[nodiscard]] static TcpSizes usual(int world_size);
  /// `latency` in seconds; `bytes_per_second` of a rank in each direction.
  [[nodiscard]] static TcpSizes for_link(double latency, double bytes_per_second, int world_size);

  /// "up to 256 KiB in one trip, above in pieces of 256 KiB".
  [[nodiscard]] std::string describe() const;
};

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/workers/detail/payload.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace lockstep::workers {

/// A payload as it lies in a slot or a block: a header, the entries of the pool's blocks that it
/// mentions, its bytes, and behind them, on a line of its own, its parts.
///
/// Thread-safety: values.
class PoolFrame {
 public:
  [[nodiscard]] static std::size_t bytes_for(const PayloadWriter& payload);
  /// `to`: room for `bytes_for`, aligned to `PayloadWriter::kAlignment`.
  static void write(const PayloadWriter& payload, std::byte* to);

  /// What was written there.
  explicit PoolFrame(std::byte* from);
  [[nodiscard]] const std::vector<std::uint32_t>& entries() const noexcept { return entries_; }
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  /// All of it.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  struct Header;

  std::vector<std::uint32_t> entries_;
  std::string_view bytes_;
  std::byte* data_;
  std::size_t size_;
};

}  // namespace lockstep::workers

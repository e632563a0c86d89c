// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace lockstep::files {

/// XXH3-128 of bytes that come in pieces: finds damage, at the speed of memory. It is no protection
/// against someone who changes a file on purpose.
///
/// Thread-safety: none.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::span<const std::byte> bytes) noexcept;
  /// 32 hexadecimal digits, as `xxh128sum` prints them.
  [[nodiscard]] std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep::files

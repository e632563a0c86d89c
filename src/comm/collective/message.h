// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <string>

namespace lockstep {

/// The library's own tag: the largest that every MPI offers.
constexpr int kOwnTag = (1 << 15) - 1;
/// Largest tag of a program's message.
constexpr int kMaxTag = kOwnTag - 1;

/// The header of a message.
struct MessageHeader {
  std::uint64_t bytes = 0;
  std::int32_t tag = 0;
  std::uint8_t dtype = 0;  ///< at::ScalarType
  std::array<std::uint8_t, 3> unused{};

  [[nodiscard]] static MessageHeader of(const at::Tensor& tensor, int tag);
};

/// "a message of 8 x Float with tag 3".
[[nodiscard]] std::string describe(const MessageHeader& header);

/// Throws `OperationFailure` unless `sent`, which came from rank `from`, is what this rank expects.
void check_message(const MessageHeader& sent, const MessageHeader& expected, int from);

}  // namespace lockstep

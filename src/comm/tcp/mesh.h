// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "concurrency/deadline.h"
#include "native/posix/file_descriptor.h"
#include "native/posix/tcp_socket.h"

namespace lockstep {

/// How to reach a rank. Plain bytes: ranks send it to each other before there is a connection.
struct TcpContact {
  static constexpr std::size_t kMaxAddresses = 8;

  std::array<native::TcpAddress, kMaxAddresses> addresses{};
  std::uint32_t count = 0;
  std::uint32_t unused = 0;
  std::array<std::uint64_t, 2> secret{};  ///< rank 0's counts: whoever does not know it is refused
  std::array<char, 64> host{};

  [[nodiscard]] std::string host_name() const;
};

/// What each pair of ranks has a connection for. One that waits never holds up another.
enum class TcpChannel : std::uint32_t { Control, Exchange, Contributions, Results, Messages };
constexpr std::size_t kTcpChannels = 5;

/// A rank's sockets to one other rank, by `TcpChannel`.
using TcpSockets = std::array<native::FileDescriptor, kTcpChannels>;

/// Connects every rank of a group with every other one. Each rank connects to those with lower
/// numbers and is connected to by the others, and both sides say who they are: an address may
/// belong to another machine in another network.
///
/// Holds no torch.
class TcpMesh {
 public:
  /// Listens from now on. `interfaces`: names, or the beginnings of names, separated by commas,
  /// that addresses are taken from, besides those of the loop-back interface; empty: all. Throws:
  /// `std::runtime_error` when no interface of these names has an address, `std::system_error`.
  explicit TcpMesh(const std::string& interfaces);

  [[nodiscard]] const TcpContact& contact() const noexcept { return contact_; }
  /// The interfaces and addresses that this rank offers, for the log.
  [[nodiscard]] const std::string& description() const noexcept { return description_; }

  /// `all`: the contacts of all ranks. An empty set of sockets stands in this rank's own place.
  /// Collective. Blocks: until all connections stand. Throws: `std::runtime_error` that names the
  /// ranks that could not be reached when `deadline` has passed.
  [[nodiscard]] std::vector<TcpSockets> connect(std::span<const TcpContact> all, int rank,
                                                const Deadline& deadline);

 private:
  native::TcpListener listener_;
  TcpContact contact_;
  std::string description_;
};

}  // namespace lockstep

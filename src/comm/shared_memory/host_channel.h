// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/environment.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "concurrency/deadline.h"
#include "native/posix/datagram_socket.h"
#include "native/posix/peer_process.h"
#include "native/posix/shared_memory.h"

namespace lockstep {

/// How the ranks of one host meet under their job id, and how rank 0 hands memory to the others.
///
/// Each rank has a Unix datagram socket named after user, job and rank; nothing listens, nothing
/// lies in the file system, and whatever kills a rank leaves nothing behind. Memory travels as a
/// file descriptor. Thread-safety: one thread at a time.
class HostChannel {
 public:
  /// Throws: `LaunchError` when this rank of this job is running already.
  explicit HostChannel(const LaunchEnvironment& environment);

  using CanStillCome = std::function<bool(int rank)>;
  using Admit =
      std::function<void(std::byte* memory, int rank, pid_t pid, std::uint64_t pid_namespace)>;
  using GiveUp = std::function<void(std::byte* memory, const std::string& reason)>;

  /// Returns the same `bytes` of zeroed memory to every rank. Rank 0 makes it and calls `admit` for
  /// each rank, itself included, before anybody else sees it. Where it then cannot reach a rank, it
  /// calls `give_up`, so that those that have the memory already find word of that in it.
  ///
  /// Collective. Blocks: until all ranks have come.
  /// Throws: `LaunchError` on every rank that came: somebody did not come (named), world sizes
  /// differ, no memory.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> meet(std::size_t bytes,
                                                           const Deadline& deadline,
                                                           const Admit& admit,
                                                           const GiveUp& give_up);

  /// The same later on, when all ranks are known to call it. `can_still_come` is asked for rank 0
  /// while others wait. Throws: `std::runtime_error` on every rank, with the text of rank 0's error
  /// or of the timeout.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> share(std::size_t bytes,
                                                            const Deadline& deadline,
                                                            const CanStillCome& can_still_come);

 private:
  struct Letter;

  [[nodiscard]] std::string name_of(int rank) const;
  void send(int to, const Letter& letter, int descriptor, const Deadline& deadline,
            const CanStillCome& can_still_come);
  [[nodiscard]] static Letter parse(const native::DatagramSocket::Message& message);
  /// Nothing for a letter that is not for the attempt under way.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> accept(
      native::DatagramSocket::Message& message, std::size_t bytes);
  [[noreturn]] void throw_missing(const std::vector<bool>& has_come,
                                  const Deadline& deadline) const;
  [[nodiscard]] std::shared_ptr<native::SharedMemory> host_meeting(std::size_t bytes,
                                                                   const Deadline& deadline,
                                                                   const Admit& admit,
                                                                   const GiveUp& give_up);
  [[nodiscard]] std::vector<native::PeerProcess> admit_all(std::byte* memory,
                                                           const std::vector<Letter>& hellos,
                                                           const Admit& admit) const;
  [[nodiscard]] std::shared_ptr<native::SharedMemory> attend_meeting(std::size_t bytes,
                                                                     const Deadline& deadline);
  void await_hellos(const Deadline& deadline, const std::function<void(const Letter&)>& on_hello);
  void hand_out(const native::SharedMemory& memory, const Deadline& deadline,
                const CanStillCome& can_still_come);
  void refuse(int rank, const std::string& reason);
  void refuse_all(const std::string& reason);

  LaunchEnvironment environment_;
  std::string job_name_;
  native::DatagramSocket socket_;
  std::uint64_t number_ = 0;  // of attempts to share memory
};

}  // namespace lockstep

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

/// The rendezvous of the ranks of one host under their job id, and the way in which rank 0 hands
/// memory to the others.
///
/// Each rank has a Unix datagram socket named after user, job and rank. No port listens, no file is
/// made, and a rank that is killed leaves nothing behind. Memory travels as a
/// file descriptor. Thread-safety: one thread at a time.
class HostChannel {
 public:
  /// Throws: `LaunchError` when this rank of this job is running already.
  explicit HostChannel(const LaunchEnvironment& environment);

  using CanStillCome = std::function<bool(int rank)>;
  using Admit =
      std::function<void(std::byte* memory, int rank, pid_t pid, std::uint64_t pid_namespace)>;
  using Abort = std::function<void(std::byte* memory, const std::string& reason)>;

  /// Returns the same `bytes` of zeroed memory to every rank. Rank 0 makes the memory and calls
  /// `admit` for each rank, itself included, before another rank sees it. If rank 0 then cannot
  /// reach a rank, it calls `abort`, which tells the ranks that have the memory already.
  ///
  /// Collective. Blocks: until all ranks have come.
  /// Throws: `LaunchError` on every rank that came, when a rank did not come (it is named), world
  /// sizes differ, or there is no memory.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> rendezvous(std::size_t bytes,
                                                                 const Deadline& deadline,
                                                                 const Admit& admit,
                                                                 const Abort& abort);

  /// The same after the rendezvous, when all ranks are known to call it. `can_still_come` is asked
  /// for rank 0 while others wait. Throws: `std::runtime_error` on every rank, with the text of
  /// rank 0's error or of the timeout.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> share(std::size_t bytes,
                                                            const Deadline& deadline,
                                                            const CanStillCome& can_still_come);

 private:
  struct Message;

  [[nodiscard]] std::string name_of(int rank) const;
  void send(int to, const Message& message, int descriptor, const Deadline& deadline,
            const CanStillCome& can_still_come);
  [[nodiscard]] static Message parse(const native::DatagramSocket::Message& datagram);
  /// Null for a message that is not for the attempt under way.
  [[nodiscard]] std::shared_ptr<native::SharedMemory> accept(
      native::DatagramSocket::Message& datagram, std::size_t bytes);
  [[noreturn]] void throw_missing(const std::vector<bool>& has_come,
                                  const Deadline& deadline) const;
  [[nodiscard]] std::shared_ptr<native::SharedMemory> host_rendezvous(std::size_t bytes,
                                                                      const Deadline& deadline,
                                                                      const Admit& admit,
                                                                      const Abort& abort);
  [[nodiscard]] std::vector<native::PeerProcess> admit_all(std::byte* memory,
                                                           const std::vector<Message>& requests,
                                                           const Admit& admit) const;
  [[nodiscard]] std::shared_ptr<native::SharedMemory> join_rendezvous(std::size_t bytes,
                                                                      const Deadline& deadline);
  void await_join_requests(const Deadline& deadline,
                           const std::function<void(const Message&)>& on_request);
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

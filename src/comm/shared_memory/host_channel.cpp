// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/host_channel.h"

#include <lockstep/core/error.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kMagic = 0x4c4f434b53544550;  // "LOCKSTEP"
// A rank that rank 0 knows of waits this much longer, because rank 0 can say who is missing and it
// cannot.
constexpr milliseconds kGraceForPeers{2000};
constexpr milliseconds kRetry{5};
constexpr milliseconds kRepeat{50};

enum class MessageKind : std::uint32_t { JoinRequest, Memory, Refusal };

// FNV-1a; the name must be short, equal on all ranks and different between jobs, not secret.
std::uint64_t hash(const std::string& text) {
  std::uint64_t value = 0xcbf29ce484222325;
  for (const char c : text) {
    value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return value;
}

std::string make_job_name(const std::string& job_id) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "lockstep/%u/%016llx/", static_cast<unsigned>(::getuid()),
                static_cast<unsigned long long>(hash(job_id)));
  return text.data();
}

/// How an error goes on where the launcher did not say which ranks share a host.
std::string assumption_of(const LaunchEnvironment& environment) {
  return environment.assumption.empty() ? "" : ". " + environment.assumption;
}

native::DatagramSocket open_socket(const std::string& name, const LaunchEnvironment& environment) {
  try {
    return native::DatagramSocket(name);
  } catch (const std::system_error& error) {
    if (error.code().value() != EADDRINUSE) throw LaunchError(error.what());
    const std::string who = "rank " + std::to_string(environment.rank) + " of job '" +
                            environment.job_id + "' (" + to_string(environment.launcher) +
                            ") is running already";
    if (native::DatagramSocket::is_own(name)) {
      throw LaunchError(
          who +
          ", in this process: its process group is still open. Use that one, or "
          "split(0) of it for a second one of the same ranks, or close() it before "
          "init_process_group; where this process is a fork of that rank, set another "
          "LOCKSTEP_JOB_ID");
    }
    throw LaunchError(who +
                      ": two processes have the same rank, or two jobs the same id "
                      "(LOCKSTEP_JOB_ID sets another)");
  }
}

}  // namespace

struct HostChannel::Message {
  std::uint64_t magic = kMagic;
  MessageKind kind = MessageKind::JoinRequest;
  std::int32_t rank = 0;
  std::int32_t world_size = 0;
  std::int32_t pid = 0;
  std::uint64_t pid_namespace = 0;
  std::uint64_t bytes = 0;
  std::uint64_t number = 0;  // which sharing of memory this belongs to; 0: the rendezvous
  std::array<char, 512> text{};

  void set_text(const std::string& value) {
    const std::size_t length = std::min(value.size(), text.size() - 1);
    std::memcpy(text.data(), value.data(), length);
  }
};

HostChannel::HostChannel(const LaunchEnvironment& environment)
    : environment_(environment),
      job_name_(make_job_name(environment.job_id)),
      socket_(open_socket(job_name_ + std::to_string(environment.rank), environment)) {}

std::string HostChannel::name_of(int rank) const {
  return job_name_ + std::to_string(rank);
}

void HostChannel::send(int to, const Message& message, int descriptor, const Deadline& deadline,
                       const CanStillCome& can_still_come) {
  static_assert(std::is_trivially_copyable_v<Message>);
  const auto bytes = std::as_bytes(std::span(&message, 1));
  while (!socket_.try_send(name_of(to), bytes, descriptor)) {
    if (!can_still_come(to)) throw std::runtime_error("rank " + std::to_string(to) + " died");
    if (deadline.has_passed()) {
      throw std::runtime_error("rank " + std::to_string(to) + " did not come within " +
                               std::to_string(deadline.elapsed().count()) + " s");
    }
    std::this_thread::sleep_for(kRetry);  // its socket is not there yet, or its queue is full
  }
}

HostChannel::Message HostChannel::parse(const native::DatagramSocket::Message& datagram) {
  Message message;
  if (datagram.bytes.size() == sizeof(Message)) {
    std::memcpy(&message, datagram.bytes.data(), sizeof(Message));
    message.text.back() = '\0';
    if (message.magic == kMagic) return message;
  }
  throw std::runtime_error("another version of Lockstep is at work in this job");
}

std::shared_ptr<native::SharedMemory> HostChannel::rendezvous(std::size_t bytes,
                                                              const Deadline& deadline,
                                                              const Admit& admit,
                                                              const Abort& abort) {
  return environment_.rank == 0 ? host_rendezvous(bytes, deadline, admit, abort)
                                : join_rendezvous(bytes, deadline);
}

void HostChannel::throw_missing(const std::vector<bool>& has_come, const Deadline& deadline) const {
  std::string missing;
  for (std::size_t rank = 0; rank < has_come.size(); ++rank) {
    if (!has_come[rank]) missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
  }
  throw LaunchError("rank(s) " + missing + " of " + std::to_string(environment_.world_size) +
                    " did not come within " + std::to_string(deadline.elapsed().count()) +
                    " s (job '" + environment_.job_id + "', launched by " +
                    to_string(environment_.launcher) + ")" + assumption_of(environment_));
}

void HostChannel::await_join_requests(const Deadline& deadline,
                                      const std::function<void(const Message&)>& on_request) {
  std::vector<bool> has_come(static_cast<std::size_t>(environment_.world_size), false);
  has_come[0] = true;
  while (std::find(has_come.begin(), has_come.end(), false) != has_come.end()) {
    // Also where messages keep coming: ranks that are here repeat theirs.
    if (deadline.has_passed()) throw_missing(has_come, deadline);
    auto datagram = socket_.receive(kRepeat);
    if (!datagram) continue;
    const Message message = parse(*datagram);
    if (message.kind != MessageKind::JoinRequest || message.rank <= 0) continue;
    if (message.world_size != environment_.world_size || message.rank >= environment_.world_size) {
      const LaunchError error("rank 0 was started in a world of " +
                              std::to_string(environment_.world_size) + ", rank " +
                              std::to_string(message.rank) + " in a world of " +
                              std::to_string(message.world_size) + "; both launch environments (" +
                              to_string(environment_.launcher) + ") must say the same");
      refuse(message.rank, error.what_without_backtrace());  // perhaps no rank of this world
      throw error;
    }
    has_come[static_cast<std::size_t>(message.rank)] = true;
    on_request(message);
  }
}

void HostChannel::refuse(int rank, const std::string& reason) {
  Message message;
  message.kind = MessageKind::Refusal;
  message.number = number_;
  message.set_text(reason);
  // A rank that has not come cannot be told; that is no reason to wait.
  [[maybe_unused]] const bool is_sent =
      socket_.try_send(name_of(rank), std::as_bytes(std::span(&message, 1)));
}

void HostChannel::refuse_all(const std::string& reason) {
  for (int rank = 1; rank < environment_.world_size; ++rank) refuse(rank, reason);
}

void HostChannel::hand_out(const native::SharedMemory& memory, const Deadline& deadline,
                           const CanStillCome& can_still_come) {
  Message message;
  message.kind = MessageKind::Memory;
  message.bytes = memory.size();
  message.number = number_;
  for (int rank = 1; rank < environment_.world_size; ++rank) {
    send(rank, message, memory.descriptor(), deadline, can_still_come);
  }
}

std::vector<native::PeerProcess> HostChannel::admit_all(std::byte* memory,
                                                        const std::vector<Message>& requests,
                                                        const Admit& admit) const {
  admit(memory, 0, ::getpid(), native::PeerProcess::own_pid_namespace());
  std::vector<native::PeerProcess> peers(static_cast<std::size_t>(environment_.world_size));
  for (const Message& request : requests) {
    admit(memory, request.rank, request.pid, request.pid_namespace);
    peers[static_cast<std::size_t>(request.rank)] =
        native::PeerProcess(request.pid, request.pid_namespace);
  }
  return peers;
}

std::shared_ptr<native::SharedMemory> HostChannel::host_rendezvous(std::size_t bytes,
                                                                   const Deadline& deadline,
                                                                   const Admit& admit,
                                                                   const Abort& abort) {
  try {
    // All ranks have come before the memory is made, so that all learn when there is none.
    std::vector<Message> requests;
    await_join_requests(deadline, [&](const Message& request) { requests.push_back(request); });
    auto memory = native::SharedMemory::create(bytes);
    const auto peers = admit_all(memory->data(), requests, admit);
    try {
      hand_out(*memory, deadline,
               [&](int rank) { return peers[static_cast<std::size_t>(rank)].is_alive(); });
    } catch (const std::exception& error) {
      abort(memory->data(), error.what());  // ranks before that one have the memory already
      throw;
    }
    return memory;
  } catch (const LaunchError& error) {
    refuse_all(error.what_without_backtrace());
    throw;
  } catch (const std::exception& error) {
    refuse_all(error.what());
    throw LaunchError(error.what());
  }
}

std::shared_ptr<native::SharedMemory> HostChannel::join_rendezvous(std::size_t bytes,
                                                                   const Deadline& deadline) {
  Message request;
  request.rank = environment_.rank;
  request.world_size = environment_.world_size;
  request.pid = ::getpid();
  request.pid_namespace = native::PeerProcess::own_pid_namespace();
  const auto bytes_of_request = std::as_bytes(std::span(&request, 1));
  const Deadline last = Deadline::after(deadline.remaining() + kGraceForPeers);
  bool has_reached = false;
  while (true) {
    // Sent again and again: the first may have gone to a group of this job that rank 0 was just
    // about to leave.
    const bool is_sent = socket_.try_send(name_of(0), bytes_of_request);
    has_reached = has_reached || is_sent;
    auto datagram = socket_.receive(is_sent ? kRepeat : kRetry);
    try {
      if (auto memory = datagram ? accept(*datagram, bytes) : nullptr) return memory;
    } catch (const std::runtime_error& error) {
      throw LaunchError(error.what());
    }
    if (has_reached ? last.has_passed() : deadline.has_passed()) {
      throw LaunchError((has_reached ? "rank 0 came, but does not answer; waited "
                                     : "rank 0 did not come within ") +
                        std::to_string(deadline.elapsed().count()) + " s (job '" +
                        environment_.job_id + "', launched by " + to_string(environment_.launcher) +
                        ")" + (has_reached ? "" : assumption_of(environment_)));
    }
  }
}

std::shared_ptr<native::SharedMemory> HostChannel::accept(native::DatagramSocket::Message& datagram,
                                                          std::size_t bytes) {
  const Message message = parse(datagram);
  if (message.number != number_) return nullptr;  // left over from an attempt that failed
  if (message.kind == MessageKind::Refusal) throw std::runtime_error(message.text.data());
  if (message.kind != MessageKind::Memory || !datagram.descriptor.is_open() ||
      message.bytes != bytes) {
    throw std::runtime_error("rank 0 offers " + std::to_string(message.bytes) +
                             " bytes of shared memory, this rank expects " + std::to_string(bytes) +
                             "; do both run the same program?");
  }
  return native::SharedMemory::map(std::move(datagram.descriptor), bytes);
}

std::shared_ptr<native::SharedMemory> HostChannel::share(std::size_t bytes,
                                                         const Deadline& deadline,
                                                         const CanStillCome& can_still_come) {
  ++number_;
  if (environment_.rank != 0) {
    while (true) {
      auto datagram = socket_.receive(kRepeat);
      if (auto memory = datagram ? accept(*datagram, bytes) : nullptr) return memory;
      if (!can_still_come(0)) throw std::runtime_error("rank 0 died or gave up");
      if (deadline.has_passed()) {
        throw std::runtime_error("rank 0 sent no memory within " +
                                 std::to_string(deadline.elapsed().count()) + " s");
      }
    }
  }
  try {
    auto memory = native::SharedMemory::create(bytes);
    hand_out(*memory, deadline, can_still_come);
    return memory;
  } catch (const std::exception& error) {
    refuse_all(error.what());
    throw std::runtime_error(error.what());
  }
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "comm/group/comm_backend.h"
#include "comm/group/group_context.h"

namespace lockstep {

class Work;

/// What is behind a `ProcessGroup`: the group's state and its backend. `ProcessGroup` checks the
/// arguments of a call, this starts it: on the carrier of its device, staged where the backend does
/// not take it, with the options of the scope around it.
///
/// Lives as long as its `ProcessGroup` or a `Work` of it does.
/// Thread-safety: as `ProcessGroup`.
class GroupCore final : public GroupContext, public std::enable_shared_from_this<GroupCore> {
 public:
  using MakeBackend = std::function<std::unique_ptr<CommBackend>(GroupContext&)>;
  /// Collective. Blocks: the calling thread. Throws: what `make_backend` throws.
  [[nodiscard]] static std::shared_ptr<GroupCore> make(Backend kind, LaunchEnvironment environment,
                                                       Timeout timeout,
                                                       const MakeBackend& make_backend);
  /// For `make`.
  GroupCore(Backend kind, LaunchEnvironment environment, Timeout timeout);

  [[nodiscard]] CommBackend& backend() noexcept { return *backend_; }
  /// The group that carries tensors of this kind: this one, unless it has another for them.
  [[nodiscard]] GroupCore& carrier_of(c10::DeviceType device);

  /// What every call begins with. Throws: `c10::Error` where another thread is in the group, and in
  /// a fork.
  using GroupContext::enter;
  /// The same for calls that need an open group. Throws: also the group's failure; `c10::Error` for
  /// a closed group.
  [[nodiscard]] GroupVisit begin(const char* op) const;

  // --- calls, between `begin` and the end of that visit; arguments are checked ---

  /// A call under way, as the group that carries it knows it.
  struct Ticket {
    std::shared_ptr<GroupCore> carrier;
    std::uint64_t number = 0;
  };
  /// `whole`: the tensor whose pieces are the outputs, where they are no tensors of the program's.
  Ticket start(Collective call, const at::Tensor& whole = {});
  Ticket send(const at::Tensor& tensor, int to, int tag);
  Ticket receive(const at::Tensor& tensor, int from, int tag);
  /// Messages under the library's own tag, which no message of a program has. For backends that are
  /// built on this group.
  Ticket send_own(const at::Tensor& tensor, int to);
  Ticket receive_own(const at::Tensor& tensor, int from);

  /// Where the calls of `coalesced` are entered while it runs; null: it does not run.
  [[nodiscard]] std::vector<Work>* coalesced() const noexcept { return coalesced_; }
  void begin_coalescing(std::vector<Work>& parts);
  void end_coalescing();

  // --- whole calls ---

  CallScope with(CallOptions options);
  [[nodiscard]] at::Tensor allocate(at::IntArrayRef sizes, const at::TensorOptions& options);
  void close();
  void try_progress() noexcept;
  [[nodiscard]] int next_number() noexcept { return ++numbers_; }

  // --- what a `Work` asks about its ticket ---

  using GroupContext::wait_for;
  [[nodiscard]] bool is_completed(std::uint64_t ticket);
  [[nodiscard]] std::exception_ptr exception_of(std::uint64_t ticket);

 private:
  Ticket start_send(const at::Tensor& tensor, int to, int tag, Timeout timeout);
  Ticket start_receive(const at::Tensor& tensor, int from, int tag, Timeout timeout);
  /// An operation on tensors that wait for a stream, and are staged where they must be. `make`: the
  /// same call on tensors of the CPU, or that the backend `moves`.
  std::unique_ptr<Operation> behind_stream(
      Collective call, std::function<std::unique_ptr<Operation>(Collective)> make);
  std::unique_ptr<Operation> operation_for(Collective call);
  std::unique_ptr<Operation> operation_for_send(const at::Tensor& tensor, int to, int tag);
  std::unique_ptr<Operation> operation_for_receive(const at::Tensor& tensor, int from, int tag);

  std::vector<Work>* coalesced_ = nullptr;
  int numbers_ = 0;
  std::unique_ptr<CommBackend> backend_;  // goes before the operations under way
};

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/exchange/transport.h"
#include "comm/group/comm_backend.h"

namespace lockstep {

/// The base of the backends that pass messages: it makes every operation over the backend's
/// `Transport`. A backend adds how channels are opened, those of a group of some ranks included,
/// and how they are closed. docs/adding_a_backend.md goes through it.
class ExchangeBackend : public CommBackend {
 public:
  std::unique_ptr<Operation> make_operation(Collective call) override;
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override;
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override;
  /// Ordinary memory of the CPU.
  Memory allocate(c10::Device device, std::size_t bytes) override;
  /// Makes another backend of this class.
  std::unique_ptr<CommBackend> make_group(GroupContext& part,
                                          const std::vector<int>& members) override = 0;
  /// Tells the other ranks over the transport.
  void abort(const std::string& reason) noexcept override;

  /// Whether the operation for so small a call takes as few trips over the network as there can be,
  /// so that the memory of a host has nothing to add.
  [[nodiscard]] virtual bool is_quickest_for(const Collective& /*call*/) const { return false; }

  /// The same object at each call. Operations hold it, and are destroyed after the backend, but do
  /// not touch it then.
  [[nodiscard]] virtual Transport& transport() noexcept = 0;

 protected:
  explicit ExchangeBackend(GroupContext& group) : group_(group) {}

  [[nodiscard]] GroupContext& group() const noexcept { return group_; }

 private:
  GroupContext& group_;
  bool has_aborted_ = false;
};

/// The same object, known to be one of these: what `ExchangeBackend::make_group` returns, say.
[[nodiscard]] std::unique_ptr<ExchangeBackend> as_exchange_backend(
    std::unique_ptr<CommBackend> backend);

}  // namespace lockstep

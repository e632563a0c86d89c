// SPDX-License-Identifier: BSD-3-Clause
#include "comm/exchange/backend.h"

#include <utility>

#include "comm/exchange/operations.h"
#include "comm/group/group_context.h"
#include "comm/group/host_memory.h"

namespace lockstep {

std::unique_ptr<Operation> ExchangeBackend::make_operation(Collective call) {
  return make_exchange_operation(transport(), std::move(call));
}

std::unique_ptr<Operation> ExchangeBackend::make_send(at::Tensor tensor, int to, int tag) {
  return make_exchange_send(transport(), std::move(tensor), to, tag);
}

std::unique_ptr<Operation> ExchangeBackend::make_receive(at::Tensor tensor, int from, int tag) {
  return make_exchange_receive(transport(), std::move(tensor), from, tag);
}

CommBackend::Memory ExchangeBackend::allocate(c10::Device, std::size_t bytes) {
  group_.run(make_exchange_barrier(transport(), bytes), "allocate");
  auto owner = allocate_zeroed(bytes);
  void* data = owner.get();
  agree_on_memory(group_, *this, data != nullptr, no_memory_text(bytes, data != nullptr));
  return {data, std::move(owner)};
}

void ExchangeBackend::abort(const std::string& reason) noexcept {
  // The first reason is the true one.
  if (!std::exchange(has_aborted_, true)) transport().announce_abort(reason);
}

std::unique_ptr<ExchangeBackend> as_exchange_backend(std::unique_ptr<CommBackend> backend) {
  auto* exchange = &dynamic_cast<ExchangeBackend&>(*backend);
  [[maybe_unused]] auto* same = backend.release();
  return std::unique_ptr<ExchangeBackend>(exchange);
}

}  // namespace lockstep

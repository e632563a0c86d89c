// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/backend.h"

#include <ATen/ops/empty.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/exchange/operations.h"
#include "comm/group/group_context.h"
#include "concurrency/deadline.h"
#include "native/posix/environment_variable.h"
#include "native/posix/owning_process.h"

namespace lockstep {
namespace {

// How long a rank that closes a group waits for the goodbyes of the others. All of them have passed
// a barrier before.
constexpr std::chrono::seconds kGoodbyeLimit{5};

/// "rank 1", with its host where there are several.
std::vector<std::string> names_of(const std::vector<TcpContact>& contacts) {
  const bool is_one_host =
      std::all_of(contacts.begin(), contacts.end(), [&](const TcpContact& contact) {
        return contact.host_name() == contacts.front().host_name();
      });
  std::vector<std::string> names;
  for (const TcpContact& contact : contacts) {
    names.push_back("rank " + std::to_string(names.size()) +
                    (is_one_host ? "" : " on " + contact.host_name()));
  }
  return names;
}

}  // namespace

TcpBackend::~TcpBackend() {
  if (group().is_copy_of_fork()) {
    // The engine's thread is not here, and what it waits for cannot be destroyed without it.
    native::leave_alone(std::move(connections_));
    return;
  }
  if (is_released_) return;
  if (!group().is_failure_shared()) abort("its process group was destroyed without close()");
}

void TcpBackend::start() {
  bootstrap_->start();
  const Deadline deadline = Deadline::after(group().timeout());
  try {
    TcpMesh mesh(native::environment_variable("LOCKSTEP_INTERFACES"));
    logging::info("rank " + std::to_string(group().rank()) + " can be reached at " +
                  mesh.description());
    const auto contacts = exchange_contacts(mesh.contact());
    auto sockets = mesh.connect(contacts, group().rank(), deadline);
    connections_ = std::make_shared<TcpConnections>(group().rank(), std::move(sockets),
                                                    names_of(contacts), true);
  } catch (const CommError&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw LaunchError(std::string("the ranks cannot be connected over TCP: ") + error.what());
  }
  transport_.emplace(*connections_);
  if (speed_.is_known()) set_link_speed(speed_);
}

void TcpBackend::set_link_speed(const LinkSpeed& speed) {
  speed_ = speed;
  connections_->set_sizes(
      TcpSizes::for_link(speed.latency, speed.bytes_per_second, group().size()));
}

std::string TcpBackend::describe_link() const {
  return "TCP sockets" + (speed_.is_known() ? " (" + speed_.describe() + " a rank)" : "") + ", " +
         connections_->sizes().describe();
}

std::unique_ptr<CommBackend> TcpBackend::take_bootstrap() {
  close_connections();
  return std::move(bootstrap_);
}

void TcpBackend::close_connections() {
  connections_->close(std::min<std::chrono::milliseconds>(group().timeout(), kGoodbyeLimit));
  is_released_ = true;
}

std::vector<TcpContact> TcpBackend::exchange_contacts(const TcpContact& own) {
  const auto ranks = static_cast<std::size_t>(group().size());
  std::vector<TcpContact> contacts(ranks, own);
  std::vector<at::Tensor> outputs;
  for (TcpContact& contact : contacts) {
    outputs.push_back(tensor_of(std::as_writable_bytes(std::span(&contact, 1))));
  }
  TcpContact sent = own;
  group().run(bootstrap_->make_operation(
                  {.op = CollectiveOp::AllGather,
                   .inputs = {tensor_of(std::as_writable_bytes(std::span(&sent, 1)))},
                   .outputs = std::move(outputs)}),
              "init_process_group");
  return contacts;
}

std::unique_ptr<Operation> TcpBackend::make_operation(Collective call) {
  const bool is_whole = call.op == CollectiveOp::AllReduce || call.op == CollectiveOp::Reduce;
  if (is_whole) return make_tcp_reduction(*transport_, std::move(call));
  return ExchangeBackend::make_operation(std::move(call));
}

bool TcpBackend::is_quickest_for(const Collective& call) const {
  const bool is_whole = call.op == CollectiveOp::AllReduce || call.op == CollectiveOp::Reduce;
  return is_whole && !call.displacements.defined() &&
         is_small_tcp_reduction(*connections_, call.tensor().nbytes());
}

std::unique_ptr<CommBackend> TcpBackend::make_group(GroupContext& part,
                                                    const std::vector<int>& members) {
  auto backend = std::make_unique<TcpBackend>(part, bootstrap_->make_group(part, members));
  backend->speed_ = speed_;  // of links that the group's ranks share with others of this one
  return backend;
}

CommBackend::Memory TcpBackend::allocate(c10::Device device, std::size_t bytes) {
  Memory memory = ExchangeBackend::allocate(device, bytes);
  std::erase_if(allocations_, [](const Allocation& one) { return one.owner.expired(); });
  allocations_.push_back({static_cast<const std::byte*>(memory.data), bytes, memory.owner});
  return memory;
}

bool TcpBackend::shares_memory(const void* data, std::size_t bytes) const {
  const auto* start = static_cast<const std::byte*>(data);
  return std::any_of(allocations_.begin(), allocations_.end(), [&](const Allocation& one) {
    return !one.owner.expired() && start >= one.data && start + bytes <= one.data + one.bytes;
  });
}

void TcpBackend::abort(const std::string& reason) noexcept {
  if (transport_) ExchangeBackend::abort(reason);
  bootstrap_->abort(reason);
}

void TcpBackend::release() {
  close_connections();
  bootstrap_->release();
}

std::function<std::string()> TcpBackend::peer_watch() {
  return [connections = std::weak_ptr(connections_),
          owner = native::OwningProcess()]() -> std::string {
    const auto alive = connections.lock();
    if (!alive || !owner.is_current()) return "";
    alive->engine().poll();
    const auto held = alive->engine().lock();
    const auto& loss = alive->find_loss();
    return loss ? loss->text : "";
  };
}

}  // namespace lockstep

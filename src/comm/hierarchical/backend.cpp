// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/backend.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <utility>

#include "comm/exchange/operations.h"
#include "comm/group/host_memory.h"
#include "comm/hierarchical/make_process_group.h"
#include "comm/shared_memory/backend.h"
#include "native/posix/host_name.h"

namespace lockstep {

void HierarchicalBackend::start() {
  link_.backend->start();
  HostLayout layout = find_hosts();
  if (layout.hosts.size() > 1) {
    link_text_ = choose_ ? choose_(group_, link_, layout) : link_.backend->describe_link();
  }
  group_.set_local(layout.own_index, static_cast<int>(layout.own_ranks().size()));
  SharedMemoryTransport* local = layout.own_ranks().size() > 1 ? meet_host(layout) : nullptr;
  hierarchy_.emplace(
      Hierarchy{link_.backend->transport(), std::move(layout), local, link_.make_reduction});
}

HostLayout HierarchicalBackend::find_hosts() {
  const int ranks = group_.size();
  const auto own = at::full({1}, host_number(group_.environment()), at::kLong);
  const auto all = at::empty({ranks}, at::kLong);
  group_.run(link_.backend->make_operation({.op = CollectiveOp::AllGather,
                                            .inputs = {own},
                                            .outputs = all.view({ranks, 1}).unbind(0)}),
             "all_gather");
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  return HostLayout::of({numbers, numbers + ranks}, group_.rank());
}

SharedMemoryTransport* HierarchicalBackend::meet_host(const HostLayout& layout) {
  LaunchEnvironment local = group_.environment();
  local.rank = local.local_rank;
  local.world_size = local.local_size;
  local.job_id += " / host " + std::to_string(layout.own_host);
  local.assumption.clear();  // their host is known
  SharedMemoryTransport* memory = nullptr;
  local_ = GroupCore::make(Backend::SharedMemory, local, group_.timeout(), [&](GroupContext& host) {
    auto backend = std::make_unique<SharedMemoryBackend>(host);
    memory = &backend->transport();
    return backend;
  });
  memory->counters().name_ranks(layout.own_ranks(),
                                layout.hosts.size() > 1 ? native::host_name() : "");
  return memory;
}

std::unique_ptr<Operation> HierarchicalBackend::make_operation(Collective call) {
  if ((is_flat() && is_reduction(call.op)) || link_.backend->is_quickest_for(call)) {
    return link_.backend->make_operation(std::move(call));
  }
  return make_hierarchical_operation(*hierarchy_, std::move(call));
}

SharedMemoryMessages* HierarchicalBackend::messages_with(int peer) {
  const bool is_here = hierarchy_->layout.host_of(peer) == hierarchy_->layout.own_host;
  return is_here && hierarchy_->local != nullptr ? &hierarchy_->local->messages() : nullptr;
}

std::unique_ptr<Operation> HierarchicalBackend::make_send(at::Tensor tensor, int to, int tag) {
  if (SharedMemoryMessages* here = messages_with(to)) {
    return here->send(std::move(tensor), hierarchy_->layout.index_of(to), tag);
  }
  return link_.backend->make_send(std::move(tensor), to, tag);
}

std::unique_ptr<Operation> HierarchicalBackend::make_receive(at::Tensor tensor, int from, int tag) {
  if (SharedMemoryMessages* here = messages_with(from)) {
    return here->receive(std::move(tensor), hierarchy_->layout.index_of(from), tag);
  }
  return link_.backend->make_receive(std::move(tensor), from, tag);
}

std::unique_ptr<CommBackend> HierarchicalBackend::make_group(GroupContext& part,
                                                             const std::vector<int>& members) {
  auto between = as_exchange_backend(link_.backend->make_group(part, members));
  // The part uses what carries the data of the whole.
  const auto same = [text = link_text_](GroupContext&, HostLink&, const HostLayout&) {
    return text;
  };
  return std::make_unique<HierarchicalBackend>(
      part, HostLink{std::move(between), link_.make_reduction}, same);
}

bool HierarchicalBackend::shares_memory(const void* data, std::size_t bytes) const {
  return is_flat() && link_.backend->shares_memory(data, bytes);
}

void HierarchicalBackend::mark_indexed(const void* data) {
  link_.backend->mark_indexed(data);
}

CommBackend::Memory HierarchicalBackend::allocate(c10::Device device, std::size_t bytes) {
  if (is_flat()) return link_.backend->allocate(device, bytes);
  // Only the oldest collective may use the host's memory. After this barrier it is free.
  group_.run(make_exchange_barrier(link_.backend->transport(), bytes), "allocate");
  Memory memory;
  std::string error_text = "another host has no memory for it";
  try {
    if (local_) {
      memory = local_->backend().allocate(device, bytes);
    } else if (auto owner = allocate_zeroed(bytes)) {
      void* data = owner.get();
      memory = Memory{data, std::move(owner)};
    } else {
      error_text = no_memory_text(bytes, false);
    }
  } catch (const std::exception& error) {
    error_text = error.what();
  }
  agree_on_memory(group_, *this, memory.data != nullptr, error_text);
  return memory;
}

void HierarchicalBackend::abort(const std::string& reason) noexcept {
  if (local_) local_->backend().abort(reason);
  link_.backend->abort(reason);
}

std::function<std::string()> HierarchicalBackend::peer_watch() {
  auto here = local_ ? local_->backend().peer_watch() : nullptr;
  auto elsewhere = link_.backend->peer_watch();
  if (!here || !elsewhere) return here ? here : elsewhere;
  return [here = std::move(here), elsewhere = std::move(elsewhere)] {
    std::string text = here();
    return text.empty() ? elsewhere() : text;
  };
}

void HierarchicalBackend::release() {
  if (local_) local_->close();
  link_.backend->release();
}

void HierarchicalBackend::forget_names() noexcept {
  if (local_) local_->backend().forget_names();
  link_.backend->forget_names();
}

std::shared_ptr<ProcessGroup> make_hierarchical_process_group(
    const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
    const MakeExchangeBackend& make_between, MakeHostReduction make_reduction,
    const ChooseHostLink& choose) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Hierarchical, environment, timeout, [&](GroupContext& group) {
        return std::make_unique<HierarchicalBackend>(
            group, HostLink{make_between(group), make_reduction}, choose);
      }));
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/process_group.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <utility>

#include "comm/exchange/operations.h"
#include "comm/group/host_memory.h"
#include "comm/hierarchical/make_process_group.h"

namespace lockstep {

void HierarchicalProcessGroup::meet() {
  HostLayout layout = find_hosts();
  set_local(layout.own_index, static_cast<int>(layout.own_ranks().size()));
  if (layout.own_ranks().size() > 1) meet_host(layout);
  SharedMemoryTransport* local = local_ ? &local_->transport() : nullptr;
  MpiHierarchy hierarchy{transport(), std::move(layout), local, std::nullopt};
  hierarchy_.emplace(std::move(hierarchy));
  open_leaders();
}

HostLayout HierarchicalProcessGroup::find_hosts() {
  const auto own = at::full({1}, host_number(environment()), at::kLong);
  const auto all = at::empty({size()}, at::kLong);
  all_gather(all, own).wait();
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  return HostLayout::of({numbers, numbers + size()}, rank());
}

void HierarchicalProcessGroup::meet_host(const HostLayout& layout) {
  LaunchEnvironment local = environment();
  local.rank = local.local_rank;
  local.world_size = local.local_size;
  local.job_id += " / host " + std::to_string(layout.own_host);
  local.assumption.clear();  // their host is known
  local_ = std::make_shared<SharedMemoryProcessGroup>(local, timeout());
  local_->transport().rounds().name_ranks(layout.own_ranks());
}

void HierarchicalProcessGroup::open_leaders() {
  const HostLayout& layout = hierarchy_->layout;
  if (layout.own_index != 0 || layout.hosts.size() == 1) return;
  std::vector<int> leaders;
  for (const auto& ranks : layout.hosts) leaders.push_back(ranks.front());
  hierarchy_->leaders.emplace(channels().data, leaders);
}

std::unique_ptr<Operation> HierarchicalProcessGroup::make_operation(Collective call) {
  if (!hierarchy_) return MpiProcessGroup::make_operation(std::move(call));
  return make_hierarchical_operation(*hierarchy_, std::move(call));
}

std::shared_ptr<ProcessGroup> HierarchicalProcessGroup::make_group(
    LaunchEnvironment environment, const std::vector<int>& members) {
  auto group = std::make_shared<HierarchicalProcessGroup>(
      std::move(environment), timeout(), std::make_unique<MpiChannels>(channels(), members));
  group->meet();
  return group;
}

ProcessGroup::Memory HierarchicalProcessGroup::allocate_bytes(std::size_t bytes) {
  // The host's memory is for the oldest collective alone; when this meeting is done, all are.
  start(make_exchange_barrier(transport(), bytes), "allocate").wait();
  Memory memory;
  std::string error_text = "another host has no memory for it";
  try {
    if (local_) {
      memory = local_->allocate_block(bytes);
    } else if (auto owner = allocate_zeroed(bytes)) {
      void* data = owner.get();
      memory = Memory{data, std::move(owner)};
    } else {
      error_text = no_memory_text(bytes, false);
    }
  } catch (const std::exception& error) {
    error_text = error.what();
  }
  agree_on_memory(memory.data != nullptr, error_text);
  return memory;
}

void HierarchicalProcessGroup::abandon(const std::string& reason) noexcept {
  if (local_) local_->abandon(reason);
  MpiProcessGroup::abandon(reason);
}

std::function<std::string()> HierarchicalProcessGroup::peer_watch() {
  return local_ ? peer_watch_of(*local_) : nullptr;
}

void HierarchicalProcessGroup::release() {
  if (local_) local_->close();
  if (hierarchy_ && hierarchy_->leaders) hierarchy_->leaders->free();
  MpiProcessGroup::release();
}

std::shared_ptr<ProcessGroup> make_hierarchical_process_group(const LaunchEnvironment& environment,
                                                              std::chrono::milliseconds timeout) {
  auto group =
      std::make_shared<HierarchicalProcessGroup>(environment, timeout, open_mpi_world(environment));
  group->meet();
  return group;
}

}  // namespace lockstep

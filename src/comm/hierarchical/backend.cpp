// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/backend.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <utility>

#include "comm/exchange/operations.h"
#include "comm/group/host_memory.h"
#include "comm/hierarchical/make_process_group.h"
#include "comm/shared_memory/backend.h"

namespace lockstep {

void HierarchicalBackend::start() {
  HostLayout layout = find_hosts();
  group().set_local(layout.own_index, static_cast<int>(layout.own_ranks().size()));
  SharedMemoryTransport* local = layout.own_ranks().size() > 1 ? meet_host(layout) : nullptr;
  MpiHierarchy hierarchy{transport(), std::move(layout), local, std::nullopt};
  hierarchy_.emplace(std::move(hierarchy));
  open_leaders();
}

HostLayout HierarchicalBackend::find_hosts() {
  const int ranks = group().size();
  const auto own = at::full({1}, host_number(group().environment()), at::kLong);
  const auto all = at::empty({ranks}, at::kLong);
  group().run(make_operation({.op = CollectiveOp::AllGather,
                              .inputs = {own},
                              .outputs = all.view({ranks, 1}).unbind(0)}),
              "all_gather");
  const auto* numbers = all.const_data_ptr<std::int64_t>();
  return HostLayout::of({numbers, numbers + ranks}, group().rank());
}

SharedMemoryTransport* HierarchicalBackend::meet_host(const HostLayout& layout) {
  LaunchEnvironment local = group().environment();
  local.rank = local.local_rank;
  local.world_size = local.local_size;
  local.job_id += " / host " + std::to_string(layout.own_host);
  local.assumption.clear();  // their host is known
  SharedMemoryTransport* memory = nullptr;
  local_ =
      GroupCore::make(Backend::SharedMemory, local, group().timeout(), [&](GroupContext& host) {
        auto backend = std::make_unique<SharedMemoryBackend>(host);
        memory = &backend->transport();
        return backend;
      });
  memory->counters().name_ranks(layout.own_ranks());
  return memory;
}

void HierarchicalBackend::open_leaders() {
  const HostLayout& layout = hierarchy_->layout;
  if (layout.own_index != 0 || layout.hosts.size() == 1) return;
  std::vector<int> leaders;
  for (const auto& ranks : layout.hosts) leaders.push_back(ranks.front());
  hierarchy_->leaders.emplace(channels().data, leaders);
}

std::unique_ptr<Operation> HierarchicalBackend::make_operation(Collective call) {
  if (!hierarchy_) return MpiBackend::make_operation(std::move(call));
  return make_hierarchical_operation(*hierarchy_, std::move(call));
}

std::unique_ptr<CommBackend> HierarchicalBackend::make_group(GroupContext& part,
                                                             const std::vector<int>& members) {
  return std::make_unique<HierarchicalBackend>(part,
                                               std::make_unique<MpiChannels>(channels(), members));
}

CommBackend::Memory HierarchicalBackend::allocate(c10::Device device, std::size_t bytes) {
  // Only the oldest collective may use the host's memory. After this barrier it is free.
  group().run(make_exchange_barrier(transport(), bytes), "allocate");
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
  agree_on_memory(group(), *this, memory.data != nullptr, error_text);
  return memory;
}

void HierarchicalBackend::abort(const std::string& reason) noexcept {
  if (local_) local_->backend().abort(reason);
  MpiBackend::abort(reason);
}

std::function<std::string()> HierarchicalBackend::peer_watch() {
  return local_ ? local_->backend().peer_watch() : nullptr;
}

void HierarchicalBackend::release() {
  if (local_) local_->close();
  if (hierarchy_ && hierarchy_->leaders) hierarchy_->leaders->free();
  MpiBackend::release();
}

std::shared_ptr<ProcessGroup> make_hierarchical_process_group(const LaunchEnvironment& environment,
                                                              std::chrono::milliseconds timeout) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Hierarchical, environment, timeout, [](GroupContext& group) {
        return std::make_unique<HierarchicalBackend>(group, open_mpi_world(group.environment()));
      }));
}

}  // namespace lockstep

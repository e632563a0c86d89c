// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/backend.h"

#include <lockstep/core/error.h>

#include <string>
#include <utility>

#include "comm/collective/operation.h"
#include "comm/group/group_core.h"
#include "comm/shared_memory/operations.h"

namespace lockstep {

SharedMemoryBackend::SharedMemoryBackend(GroupContext& group)
    : group_(group), channel_(std::in_place, group.environment()) {
  const int ranks = group.size();
  auto control = channel_->rendezvous(
      SharedMemoryTransport::control_bytes(ranks), Deadline::after(group.timeout()),
      [ranks](std::byte* memory, int rank, pid_t pid, std::uint64_t pid_namespace) {
        SharedMemoryCounters(memory, 0, ranks).admit(rank, pid, pid_namespace);
      },
      [ranks](std::byte* memory, const std::string& reason) {
        SharedMemoryCounters(memory, 0, ranks)
            .leave(SharedMemoryCounters::RankState::Aborted, reason);
      });
  control->close_descriptor();
  control->populate();
  transport_ = std::make_unique<SharedMemoryTransport>(std::move(control), group.rank(), ranks);
  transport_->counters().watch_peers();
}

SharedMemoryBackend::~SharedMemoryBackend() {
  if (transport_ && !group_.is_closed() && !group_.is_copy_of_fork())
    abort("its process group was destroyed without close()");
}

std::unique_ptr<Operation> SharedMemoryBackend::make_operation(Collective call) {
  return make_shared_memory_operation(*transport_, std::move(call));
}

std::unique_ptr<Operation> SharedMemoryBackend::make_send(at::Tensor tensor, int to, int tag) {
  return transport_->messages().send(std::move(tensor), to, tag);
}

std::unique_ptr<Operation> SharedMemoryBackend::make_receive(at::Tensor tensor, int from, int tag) {
  return transport_->messages().receive(std::move(tensor), from, tag);
}

std::unique_ptr<CommBackend> SharedMemoryBackend::make_group(GroupContext& part,
                                                             const std::vector<int>& /*members*/) {
  // Their rendezvous is under the new group's job id.
  return std::make_unique<SharedMemoryBackend>(part);
}

CommBackend::Memory SharedMemoryBackend::allocate(c10::Device, std::size_t bytes) {
  // First make sure that all ranks want the same, so that none waits for memory that never comes.
  group_.run(make_shared_memory_barrier(*transport_, bytes), "allocate");
  const std::size_t block = SharedMemoryTransport::block_bytes_for(bytes);
  std::size_t all = 0;
  TORCH_CHECK(!__builtin_mul_overflow(block, static_cast<std::size_t>(group_.size()), &all),
              "allocate: ", bytes, " bytes on ", group_.size(), " ranks are too large");
  std::shared_ptr<native::SharedMemory> memory;
  std::string error_text = "another rank could not map the memory";
  try {
    memory = channel_->share(all, Deadline::after(group_.call_timeout()), [this](int other) {
      return transport_->counters().can_still_come(other);
    });
  } catch (const std::runtime_error& error) {
    error_text = error.what();
  }
  // Ranks that have the memory must learn when another lacks it. Then nothing is broken, and the
  // group can go on.
  agree_on_memory(group_, *this, memory != nullptr, error_text);
  memory->close_descriptor();
  std::byte* own = transport_->register_memory(memory, block);
  return {own, std::move(memory)};
}

bool SharedMemoryBackend::shares_memory(const void* data, std::size_t bytes) const {
  return transport_->find(data, bytes, SharedMemoryTransport::Layout::Indexed).has_value();
}

void* SharedMemoryBackend::memory_of(const void* data, int rank) const {
  const auto place = transport_->find(data, 1);
  return place ? place->of(rank) : nullptr;
}

void SharedMemoryBackend::mark_indexed(const void* data) {
  transport_->mark_indexed(data);
}

std::function<std::string()> SharedMemoryBackend::peer_watch() {
  // Reads what other threads read too: states in shared memory, and descriptors of processes.
  return [&counters = std::as_const(transport_->counters())]() -> std::string {
    for (int other = 0; other < counters.world_size(); ++other) {
      if (other == counters.rank() || counters.can_still_come(other)) continue;
      const std::string reason = counters.reason_of(other);
      if (counters.state(other) == SharedMemoryCounters::RankState::Closed) continue;
      return counters.describe(other) + (reason.empty() ? " is gone" : " gave up: " + reason);
    }
    return "";
  };
}

void SharedMemoryBackend::release() {
  transport_->counters().leave(SharedMemoryCounters::RankState::Closed, "");
  channel_.reset();
}

void SharedMemoryBackend::forget_names() noexcept {
  channel_.reset();
}

void SharedMemoryBackend::abort(const std::string& reason) noexcept {
  // The first reason is the true one, and others may be reading it.
  if (std::exchange(has_aborted_, true)) return;
  transport_->counters().leave(SharedMemoryCounters::RankState::Aborted, reason);
}

std::shared_ptr<ProcessGroup> make_shared_memory_process_group(const LaunchEnvironment& environment,
                                                               std::chrono::milliseconds timeout) {
  return std::make_shared<ProcessGroup>(GroupCore::make(
      Backend::SharedMemory, environment, timeout,
      [](GroupContext& group) { return std::make_unique<SharedMemoryBackend>(group); }));
}

}  // namespace lockstep

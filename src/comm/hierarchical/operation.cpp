// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/operation.h"

#include <utility>

#include "comm/collective/tensor_bytes.h"
#include "comm/shared_memory/operation.h"
#include "comm/shared_memory/operations.h"

namespace lockstep {

namespace {

constexpr std::chrono::milliseconds kGraceForRounds{100};

}  // namespace

void HierarchicalOperation::start_local(Collective call) {
  if (hierarchy_.local == nullptr) return;
  next_locals_.push_back(std::move(call));
  if (!local_) start_next_local();
}

void HierarchicalOperation::start_next_local() {
  local_ = make_shared_memory_operation(*hierarchy_.local, std::move(next_locals_.front()));
  next_locals_.pop_front();
  local_->try_start(true);
}

bool HierarchicalOperation::are_locals_done() {
  while (local_) {
    if (!local_->try_finish()) return false;
    local_.reset();
    if (!next_locals_.empty()) start_next_local();
  }
  return true;
}

void HierarchicalOperation::start_reduction(const Collective& call,
                                            std::vector<ReductionLine> lines,
                                            const ReductionExtent& extent) {
  if (!reduction_) {
    reduction_ = hierarchy_.make_reduction(hierarchy_.transport, call.dtype(), call.reduce_op);
  }
  reduction_->start(std::move(lines), extent);
}

bool HierarchicalOperation::is_exchange_done() {
  return ExchangeOperation::is_step_done() && (!reduction_ || reduction_->advance());
}

bool HierarchicalOperation::is_step_done() {
  // Both go on at the same time.
  is_exchanged_ = is_exchange_done();
  if (is_exchanged_ && hierarchy_.local != nullptr) {
    hierarchy_.local->counters().note_awaited(std::nullopt);
  }
  return are_locals_done() && is_exchanged_;
}

Exchange HierarchicalOperation::empty_exchange() const {
  const auto ranks = static_cast<std::size_t>(world_size());
  Exchange exchange;
  exchange.sends.resize(ranks);
  exchange.receives.resize(ranks);
  return exchange;
}

bool HierarchicalOperation::spin() {
  return local_ && is_exchanged_ && local_->spin();
}

void HierarchicalOperation::sleep(std::chrono::nanoseconds limit) {
  // A rank that sleeps until another one of its host moves would not see what comes from elsewhere.
  if (local_ && is_exchanged_) return local_->sleep(limit);
  ExchangeOperation::sleep(limit);
}

void HierarchicalOperation::check_peers() {
  ExchangeOperation::check_peers();
  if (hierarchy_.local != nullptr) hierarchy_.local->counters().note_awaited(awaited());
  if (local_) return local_->check_peers();
  if (hierarchy_.local == nullptr || is_agreed()) return;
  const SharedMemoryCounters& counters = hierarchy_.local->counters();
  const int gone = find_gone();
  if (gone == counters.world_size()) {
    is_suspicious_since_.reset();
    return;
  }
  // The announcement that the rank made before it left may still be on its way.
  const auto now = std::chrono::steady_clock::now();
  if (!is_suspicious_since_) is_suspicious_since_ = now;
  if (now - *is_suspicious_since_ > kGraceForRounds) throw lost(counters, gone);
}

int HierarchicalOperation::find_gone() const {
  // A transport may not say that a process died; the host's memory does.
  const SharedMemoryCounters& counters = hierarchy_.local->counters();
  int index = 0;
  for (; index < counters.world_size(); ++index) {
    const int peer = layout().own_ranks()[static_cast<std::size_t>(index)];
    if (!has_announced(peer) && !counters.can_still_come(index)) break;
  }
  return index;
}

std::optional<int> HierarchicalOperation::awaited() const {
  for (int peer = 0; peer < world_size() && !is_agreed(); ++peer) {
    if (!has_announced(peer)) return peer;
  }
  if (is_exchanged_) return std::nullopt;
  const auto rank = reduction_ ? reduction_->waits_for() : std::nullopt;
  return rank ? rank : hierarchy_.transport.awaited();
}

std::string HierarchicalOperation::describe_awaited() const {
  std::string text;
  for (int index = 0; index < static_cast<int>(local_size()); ++index) {
    const auto rank = hierarchy_.local->counters().awaited_by(index);
    if (!rank || index == layout().own_index) continue;
    const int waiting = layout().own_ranks()[static_cast<std::size_t>(index)];
    text +=
        "; rank " + std::to_string(waiting) + " waits for " + hierarchy_.transport.name_of(*rank);
  }
  return text;
}

std::string HierarchicalOperation::describe_missing() const {
  // A rank of this host may be late because it waits for one of another host.
  if (local_ && is_exchanged_) return local_->describe_missing() + describe_awaited();
  std::string text = ExchangeOperation::describe_missing();
  const auto late = reduction_ ? reduction_->waits_for() : std::nullopt;
  // That rank may itself wait for the one that is gone.
  if (late)
    text += "; " + hierarchy_.transport.name_of(*late) + " has not passed on its host's part";
  return text;
}

Collective local_broadcast(std::span<std::byte> bytes, std::size_t index) {
  const auto tensor = tensor_of(bytes);
  return {.op = CollectiveOp::Broadcast,
          .root = static_cast<int>(index),
          .inputs = {tensor},
          .outputs = {tensor}};
}

}  // namespace lockstep

// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_watch.h"

#include <algorithm>

#include "workers/pool_events.h"

namespace lockstep::workers {
namespace {

// The fork server deals with workers within their timeout, and with those that do not start within
// a minute; this is for when it does not.
constexpr std::chrono::minutes kPatience{2};
// A thread that waits for a pool looks once a slice.
constexpr auto kMostBetweenLooks = 4 * PoolEvents::kSlice;

}  // namespace

PoolWatch::PoolWatch(const WorkerTable& table, bool has_threads, std::chrono::milliseconds timeout)
    : table_(table),
      has_threads_(has_threads),
      timeout_(timeout),
      seen_(table.workers.size(), Seen{0, 0, WaitedTime(kMostBetweenLooks)}),
      without_progress_(kMostBetweenLooks) {}

std::size_t PoolWatch::workers_left() const {
  return static_cast<std::size_t>(
      std::count_if(table_.workers.begin(), table_.workers.end(), [](const WorkerRecord& record) {
        const auto state = record.state.load(std::memory_order_acquire);
        return state != WorkerState::GivenUp && state != WorkerState::StartFailed;
      }));
}

std::optional<PoolLoss> PoolWatch::find_loss(WorkerHost& host, bool has_work, std::size_t stuck) {
  if (const auto status = host.supervisor_status()) {
    return PoolLoss{PoolLoss::Kind::SupervisorEnded, -1, host.supervisor_pid(), *status, {}};
  }
  const auto left = workers_left();
  if (left == 0) return loss_of_all();
  if (has_work && stuck >= left) {
    return PoolLoss{PoolLoss::Kind::AllStuck, -1, host.supervisor_pid(), 0, {}};
  }
  std::uint64_t heartbeats = 0;
  for (const auto& record : table_.workers) {
    heartbeats += record.heartbeats.load(std::memory_order_relaxed);
  }
  if (!has_work || heartbeats != all_heartbeats_) {
    all_heartbeats_ = heartbeats;
    without_progress_.restart();
  } else if (!has_threads_ && without_progress_.look() > 2 * timeout_ + kPatience) {
    return PoolLoss{PoolLoss::Kind::NoProgress, -1, host.supervisor_pid(), 0, {}};
  }
  return std::nullopt;
}

// One that could not be forked says more than those that ended.
PoolLoss PoolWatch::loss_of_all() const {
  for (std::size_t worker = 0; worker < table_.workers.size(); ++worker) {
    const auto& record = table_.workers[worker];
    if (record.state.load(std::memory_order_acquire) != WorkerState::StartFailed) continue;
    return {PoolLoss::Kind::NotStarted, static_cast<int>(worker), 0, record.wait_status.load(), {}};
  }
  const auto& first = table_.workers[0];
  return {PoolLoss::Kind::NoneLeft, 0, first.pid.load(), first.wait_status.load(), first.message};
}

std::vector<PoolWatch::Stuck> PoolWatch::find_stuck() {
  std::vector<Stuck> stuck;
  if (!has_threads_) return stuck;
  for (std::size_t worker = 0; worker < seen_.size(); ++worker) {
    const auto& record = table_.workers[worker];
    auto& seen = seen_[worker];
    const auto heartbeats = record.heartbeats.load(std::memory_order_acquire);
    const auto item = record.current_item.load(std::memory_order_acquire);
    if (heartbeats != seen.heartbeats || item != seen.item || item == CurrentItem::kNothing) {
      seen.heartbeats = heartbeats;
      seen.item = item;
      seen.waited.restart();
    } else if (seen.waited.look() > timeout_) {
      stuck.push_back({worker, CurrentItem::of(item)->slot});
    }
  }
  return stuck;
}

}  // namespace lockstep::workers

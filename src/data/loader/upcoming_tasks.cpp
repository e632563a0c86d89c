// SPDX-License-Identifier: BSD-3-Clause
// Beside step 5 of a sample's path: which samples come after those that a worker has claimed.
#include "data/loader/upcoming_tasks.h"

#include <algorithm>

namespace lockstep::data::detail {

using workers::SlotState;

void UpcomingTasks::tell(std::size_t slot, std::size_t from, std::size_t skip, std::size_t most,
                         const UseUpcoming& use) {
  const auto now = channel_.sequence(slot);
  look(now);
  std::size_t ahead = 0;
  for (const auto& task : tasks_) {
    const auto first = task.sequence == now ? std::min(from, task.items) : 0;
    auto place = first;
    if (task.sequence < sequence_) place = task.items;
    if (task.sequence == sequence_) place = std::clamp(place_, first, task.items);
    if (ahead + place - first < skip) place = std::min(task.items, first + skip - ahead);
    for (; place < task.items && ahead + place - first < most; ++place) {
      if (is_ours(task, place)) {
        const auto index = channel_.items().at(task.slot, place);
        if (!is_still(task)) break;
        if (index >= 0 && !use(index, place_word(task.sequence, place))) return;
      }
      sequence_ = task.sequence;
      place_ = place + 1;
    }
    ahead += task.items - first;
    if (ahead >= most) return;
  }
}

// The batches that are being filled from this one on, in order.
void UpcomingTasks::look(std::uint64_t from) {
  tasks_.clear();
  for (std::size_t slot = 0; slot < channel_.slots(); ++slot) {
    if (channel_.state(slot) != SlotState::Filling) continue;
    Upcoming task{channel_.sequence(slot), slot, channel_.items().of(slot).size()};
    const bool is_mine = whose_ == Whose::Shared || channel_.worker(slot) == worker_;
    if (task.sequence >= from && is_mine) tasks_.push_back(task);
  }
  std::sort(tasks_.begin(), tasks_.end(),
            [](const auto& one, const auto& other) { return one.sequence < other.sequence; });
}

// Whether what was read belongs to the task. Where an item was of a later one, the slot was free
// before that, and whoever finds it filled again finds the later task's number.
bool UpcomingTasks::is_still(const Upcoming& task) const {
  return channel_.state(task.slot) == SlotState::Filling &&
         channel_.sequence(task.slot) == task.sequence;
}

bool UpcomingTasks::is_ours(const Upcoming& task, std::size_t place) const {
  return whose_ == Whose::Own || (task.sequence + place) % channel_.workers() == worker_;
}

}  // namespace lockstep::data::detail

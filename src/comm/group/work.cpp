// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/comm/work.h>

#include <algorithm>
#include <utility>

#include "comm/group/group_core.h"

namespace lockstep {

Work::Work(std::shared_ptr<GroupCore> group, std::uint64_t sequence)
    : group_(std::move(group)), sequence_(sequence) {}

Work::Work(std::vector<Work> parts)
    : parts_(std::make_shared<std::vector<Work>>(std::move(parts))) {}

void Work::wait() {
  wait_until(std::nullopt);
}

void Work::wait(std::chrono::milliseconds timeout) {
  wait_until(timeout);
}

void Work::wait_until(std::optional<std::chrono::milliseconds> timeout) {
  if (group_) return group_->wait_for(sequence_, timeout);
  const auto start = std::chrono::steady_clock::now();
  for (Work& part : *parts_) {
    std::optional<std::chrono::milliseconds> left = timeout;
    if (left) {
      *left -= std::chrono::duration_cast<std::chrono::milliseconds>(
          std::chrono::steady_clock::now() - start);
      left = std::max(*left, std::chrono::milliseconds(0));
    }
    part.wait_until(left);
  }
}

bool Work::is_completed() {
  if (group_) return group_->is_completed(sequence_);
  // One that failed is the end of the whole.
  bool are_all_complete = true;
  for (Work& part : *parts_) {
    if (part.exception()) return true;
    are_all_complete = are_all_complete && part.is_completed();
  }
  return are_all_complete;
}

std::exception_ptr Work::exception() {
  if (group_) return group_->exception_of(sequence_);
  for (Work& part : *parts_) {
    if (auto error = part.exception()) return error;
  }
  return nullptr;
}

Future<void> Work::future() const {
  return {[work = *this](Future<void>::Timeout timeout) mutable {
            work.wait_until(timeout);
            return std::monostate{};
          },
          [work = *this]() mutable { return work.is_completed(); }};
}

}  // namespace lockstep

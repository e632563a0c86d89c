// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/captured_groups.h"

#include <algorithm>
#include <mutex>

namespace lockstep {
namespace {

// c10d's own records of this kind live within one call of c10d's, which makes no call of a group.
constexpr auto kRecordKind = c10::DebugInfoKind::PARAM_COMMS_INFO;

}  // namespace

class CapturedGroups::Record final : public c10::DebugInfoBase {
 public:
  /// Null: the calling thread captures nothing.
  static Record* current() {
    auto* const record = dynamic_cast<Record*>(c10::ThreadLocalDebugInfo::get(kRecordKind));
    return record != nullptr && record->is_open() ? record : nullptr;
  }

  /// What is kept of the capturing thread's state, as for a callback, keeps this too.
  void close() {
    const std::lock_guard lock(mutex_);
    is_open_ = false;
    groups_.clear();
  }
  void add(const std::shared_ptr<GroupCore>& group) {
    const std::lock_guard lock(mutex_);
    if (!is_open_ || std::find(groups_.begin(), groups_.end(), group) != groups_.end()) {
      return;
    }
    groups_.push_back(group);
  }
  [[nodiscard]] std::vector<std::shared_ptr<GroupCore>> groups() const {
    const std::lock_guard lock(mutex_);
    return groups_;
  }

 private:
  [[nodiscard]] bool is_open() const {
    const std::lock_guard lock(mutex_);
    return is_open_;
  }

  mutable std::mutex mutex_;  // guards all of these
  bool is_open_ = true;
  std::vector<std::shared_ptr<GroupCore>> groups_;
};

CapturedGroups::CapturedGroups()
    : record_(std::make_shared<Record>()), scope_(kRecordKind, record_) {}

CapturedGroups::~CapturedGroups() {
  record_->close();
}

bool CapturedGroups::is_open() {
  return Record::current() != nullptr;
}

void CapturedGroups::note(const std::shared_ptr<GroupCore>& group) {
  if (auto* const record = Record::current()) record->add(group);
}

std::vector<std::shared_ptr<GroupCore>> CapturedGroups::groups() const {
  return record_->groups();
}

}  // namespace lockstep

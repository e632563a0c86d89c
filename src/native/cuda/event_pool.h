// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace lockstep::native {

/// Events that are used again. An event may be given back while streams still wait for it: a stream
/// waits for what was recorded when it was told to, whatever is recorded later.
///
/// Thread-safety: any thread. Owns: the events that nobody has at present.
class EventPool {
 public:
  using Event = void*;

  explicit EventPool(std::function<void(Event)> destroy) : destroy_(std::move(destroy)) {}
  /// Destroys those that were given back.
  ~EventPool() {
    for (const auto& [device, events] : idle_) {
      for (const Event event : events) destroy_(event);
    }
  }
  EventPool(const EventPool&) = delete;
  EventPool& operator=(const EventPool&) = delete;

  /// An event of that device; `create` makes one where none is idle. Throws: what `create` throws.
  template <typename Create>
  [[nodiscard]] Event take(int device, const Create& create) {
    const std::lock_guard lock(mutex_);
    auto& idle = idle_[device];
    Event event = nullptr;
    if (idle.empty()) {
      event = create();
    } else {
      event = idle.back();
      idle.pop_back();
    }
    home_[event] = device;
    return event;
  }
  void give_back(Event event) noexcept {
    const std::lock_guard lock(mutex_);
    const auto home = home_.find(event);
    if (home == home_.end()) return;
    try {
      idle_[home->second].push_back(event);
    } catch (...) {  // no memory to remember it
      destroy_(event);
    }
    home_.erase(home);
  }
  [[nodiscard]] std::size_t idle(int device) {
    const std::lock_guard lock(mutex_);
    return idle_[device].size();
  }

 private:
  std::mutex mutex_;
  std::function<void(Event)> destroy_;
  std::map<int, std::vector<Event>> idle_;
  std::map<Event, int> home_;  // of those that somebody has
};

}  // namespace lockstep::native

// SPDX-License-Identifier: BSD-3-Clause
// The GPU of one rank.
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "support/fake_nccl.h"

namespace lockstep::testing {

class FakeDeviceRank final : public native::DeviceApi {
 public:
  FakeDeviceRank(std::shared_ptr<FakeNccl> world, int rank)
      : world_(std::move(world)), rank_(rank) {}

  int make_current(int device) override { return device; }
  void restore(int) override {}
  int current_device() override { return 0; }
  Stream current_stream(int) override { return this; }
  Stream create_stream(int) override {
    const std::lock_guard lock(world_->mutex_);
    world_->streams_.push_back(std::make_unique<FakeNccl::Stream>());
    world_->streams_.back()->owner = rank_;
    return world_->streams_.back().get();
  }

  void destroy_stream(Stream handle) noexcept override {
    const std::lock_guard lock(world_->mutex_);
    auto* stream = world_->find_stream(handle, "destroy_stream");
    stream->is_alive = false;
    for (const auto& comm : world_->comms_) {
      if (comm.get() == stream->user && (comm->is_alive || comm->is_aborting)) {
        world_->complain("a stream destroyed under its communicator");
      }
    }
  }
  int compute_capability(int) override {
    const std::lock_guard lock(world_->mutex_);
    return world_->compute_capability_;
  }

  Event create_event(int) override {
    const std::lock_guard lock(world_->mutex_);
    return *world_->events_.insert(new FakeNccl::Event).first;
  }
  void destroy_event(Event handle) noexcept override {
    const std::lock_guard lock(world_->mutex_);
    auto* event = static_cast<FakeNccl::Event*>(handle);
    if (world_->events_.erase(event) == 0) return world_->complain("an event destroyed twice");
    // What is enqueued may still name it, as CUDA allows.
    world_->old_events_.emplace_back(event);
  }
  void record(Event handle, Stream stream) override {
    const std::lock_guard lock(world_->mutex_);
    auto* event = find(handle);
    const std::uint64_t number = ++event->recorded;
    event->is_of_host = stream == this;
    event->capture = capture();
    if (stream == this) {
      if (!world_->are_programs_stopped_) event->reached = number;
      return;
    }
    auto* other = world_->find_stream(stream, "an event or a copy");
    if (other->user != nullptr && other->user->is_alive && other->user->polls_left > 0) {
      world_->complain("an event recorded before NCCL had taken the calls");
    }
    other->push([=] {
      event->reached = number;
      return true;
    });
  }
  void make_wait(Stream stream, Event handle) override {
    std::unique_lock lock(world_->mutex_);
    auto* event = find(handle);
    if (event->capture != 0 && event->capture != capture()) {
      world_->complain("a stream waits for an event of another capture");
    }
    const std::uint64_t number = event->recorded;
    if (stream != this) {
      auto* other = world_->find_stream(stream, "an event or a copy");
      if (event->is_of_host) other->has_waited = true;
      other->push([=] { return event->reached >= number; });
      return;
    }
    ++world_->host_waits_[rank_];
    const auto end = std::chrono::steady_clock::now() + FakeNccl::kPatience;
    while (world_->do_hosts_wait_ && event->reached < number) {
      world_->run();
      if (event->reached >= number) return;
      if (std::chrono::steady_clock::now() > end) {
        return world_->complain("a thread would have waited for ever");
      }
      world_->changed_.wait_for(lock, std::chrono::milliseconds(1));
    }
  }
  bool is_done(Event handle) override {
    const std::lock_guard lock(world_->mutex_);
    if (world_->fails_events_.contains(rank_)) throw std::runtime_error("an illegal memory access");
    world_->run();
    const auto* event = find(handle);
    if (event->capture != 0) world_->complain("an event of a graph was asked");
    return event->reached >= event->recorded;
  }
  bool is_capturing(Stream) override {
    const std::lock_guard lock(world_->mutex_);
    return capture() != 0;
  }
  void allow_captures() override {
    const std::lock_guard lock(world_->mutex_);
    ++world_->threads_that_allow_captures_;
  }
  void zero(void* data, std::size_t bytes, Stream stream) override {
    if (stream != this) throw std::logic_error("memory is zeroed for the caller's stream");
    const std::lock_guard lock(world_->mutex_);
    if (world_->fails_zeroing_.contains(rank_)) throw std::runtime_error("cannot be zeroed");
    std::memset(data, 0, bytes);
  }
  void copy(void* target, const void* source, std::size_t bytes, Stream stream) override {
    const std::lock_guard lock(world_->mutex_);
    auto* other = world_->find_stream(stream, "an event or a copy");
    other->push([=] {
      std::memmove(target, source, bytes);
      return true;
    });
  }

 private:
  /// The number of the capture under way; 0: there is none.
  [[nodiscard]] int capture() const {
    const auto found = world_->capturing_.find(rank_);
    return found == world_->capturing_.end() ? 0 : found->second;
  }
  FakeNccl::Event* find(Event handle) {
    auto* event = static_cast<FakeNccl::Event*>(handle);
    if (!world_->events_.contains(event)) throw std::logic_error("an event that is gone");
    return event;
  }

  std::shared_ptr<FakeNccl> world_;
  int rank_;
};

std::shared_ptr<native::DeviceApi> make_fake_device_rank(std::shared_ptr<FakeNccl> world,
                                                         int rank) {
  return std::make_shared<FakeDeviceRank>(std::move(world), rank);
}

}  // namespace lockstep::testing

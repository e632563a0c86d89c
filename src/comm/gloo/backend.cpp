// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/exchange/operations.h"
#include "comm/gloo/channels.h"
#include "comm/gloo/make_process_group.h"
#include "comm/gloo/meeting.h"
#include "comm/gloo/transport.h"
#include "comm/gloo/watch.h"
#include "comm/group/group_core.h"
#include "comm/group/host_memory.h"
#include "concurrency/deadline.h"

namespace lockstep {
namespace {

constexpr std::chrono::milliseconds kShortestTimeout{50};

class GlooBackend final : public CommBackend {
 public:
  GlooBackend(GroupContext& group, std::unique_ptr<GlooChannels> channels,
              GlooChannels::Store store)
      : group_(group),
        channels_(std::move(channels)),
        transport_(*channels_),
        store_(std::move(store)) {}

  ~GlooBackend() override {
    if (group_.is_copy_of_fork()) {
      leave_all_alone();
      return;
    }
    if (!channels_) return;
    if (!group_.is_failure_shared()) abandon("its process group was destroyed without close()");
    const bool is_busy = group_.has_unfinished();
    let_go();
    if (is_busy) group_.keep_unfinished();
  }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override {
    return make_exchange_operation(transport_, std::move(call));
  }
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override {
    return make_exchange_send(transport_, std::move(tensor), to, tag);
  }
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override {
    return make_exchange_receive(transport_, std::move(tensor), from, tag);
  }

  std::unique_ptr<CommBackend> make_group(GroupContext& part, const std::vector<int>&) override {
    auto channels = std::make_unique<GlooChannels>(
        gloo_store_part(part.environment().job_id, store_), part.environment(), part.timeout());
    return std::make_unique<GlooBackend>(part, std::move(channels), store_);
  }

  Memory allocate(c10::Device, std::size_t bytes) override {
    group_.run(make_exchange_barrier(transport_, bytes), "allocate");
    auto owner = allocate_zeroed(bytes);
    void* data = owner.get();
    agree_on_memory(group_, *this, data != nullptr, no_memory_text(bytes, data != nullptr));
    return {data, std::move(owner)};
  }

  [[nodiscard]] std::function<std::string()> peer_watch() override {
    return [watch = std::make_shared<GlooWatch>(channels_->store())] { return watch->look(); };
  }

  void release() override { let_go(); }

  /// Without anything under way the connections close now, which wakes ranks that wait for this
  /// one; else c10d would wait for what never ends, so that it is left in memory.
  void let_go() {
    if (group_.has_unfinished()) {
      [[maybe_unused]] auto* kept = channels_.release();
    }
    channels_.reset();
  }

  /// c10d's threads are not there in a fork, and its destructors wait for them.
  void leave_all_alone() noexcept {
    [[maybe_unused]] auto* kept_channels = channels_.release();
    [[maybe_unused]] auto* kept_store = store_.release();
  }

  void abandon(const std::string& reason) noexcept override {
    if (!channels_ || std::exchange(has_abandoned_, true)) return;
    transport_.announce_abort(reason);
  }

  GroupContext& group_;
  std::unique_ptr<GlooChannels> channels_;
  GlooTransport transport_;
  GlooChannels::Store store_;  // of the whole job
  bool has_abandoned_ = false;
};

std::unique_ptr<CommBackend> connect_ranks(GroupContext& group, const GlooRendezvous& rendezvous) {
  const LaunchEnvironment& environment = group.environment();
  const Deadline deadline = Deadline::after(group.timeout());
  while (true) {
    const auto left =
        std::max(kShortestTimeout,
                 std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining()));
    const auto store = open_gloo_store(environment, rendezvous, left);
    try {
      const auto job = agree_on_gloo_group(store, environment, deadline);
      auto channels = std::make_unique<GlooChannels>(job, environment, left);
      return std::make_unique<GlooBackend>(group, std::move(channels), job);
    } catch (const LaunchError&) {
      throw;
    } catch (const std::exception& error) {
      // A rank that is fast may still have reached the store of the group before.
      if (deadline.has_passed()) {
        throw LaunchError("gloo could not connect the ranks: " + words_of(error));
      }
      std::this_thread::sleep_for(kShortestTimeout);
    }
  }
}

}  // namespace

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      const GlooRendezvous& rendezvous) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Gloo, environment, timeout,
                      [&](GroupContext& group) { return connect_ranks(group, rendezvous); }));
}

}  // namespace lockstep

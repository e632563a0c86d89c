// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/process_group.h"

#include <lockstep/core/error.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/exchange/operations.h"
#include "comm/gloo/channels.h"
#include "comm/gloo/meeting.h"
#include "comm/gloo/transport.h"
#include "comm/gloo/watch.h"
#include "comm/group/host_memory.h"
#include "concurrency/deadline.h"

namespace lockstep {
namespace {

constexpr std::chrono::milliseconds kShortestTimeout{50};

class GlooProcessGroup final : public ProcessGroup {
 public:
  GlooProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
                   std::unique_ptr<GlooChannels> channels, GlooChannels::Store store)
      : ProcessGroup(Backend::Gloo, environment, timeout),
        channels_(std::move(channels)),
        transport_(*channels_),
        store_(std::move(store)) {}

  ~GlooProcessGroup() override {
    if (is_copy_of_fork()) {
      leave_all_alone();
      return;
    }
    if (!channels_) return;
    if (!is_failure_shared()) abandon("its process group was destroyed without close()");
    const bool is_busy = has_unfinished();
    let_go();
    if (is_busy) keep_unfinished();
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

  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>&) override {
    auto channels = std::make_unique<GlooChannels>(gloo_store_part(environment.job_id, store_),
                                                   environment, timeout());
    return std::make_shared<GlooProcessGroup>(environment, timeout(), std::move(channels), store_);
  }

  Memory allocate_bytes(std::size_t bytes) override {
    start(make_exchange_barrier(transport_, bytes), "allocate").wait();
    auto owner = allocate_zeroed(bytes);
    void* data = owner.get();
    agree_on_memory(data != nullptr, no_memory_text(bytes, data != nullptr));
    return {data, std::move(owner)};
  }

  [[nodiscard]] std::function<std::string()> peer_watch() override {
    return [watch = std::make_shared<GlooWatch>(channels_->store())] { return watch->look(); };
  }

  void release() override { let_go(); }

  /// Without anything under way the connections close now, which wakes ranks that wait for this
  /// one; else c10d would wait for what never ends, so that it is left in memory.
  void let_go() {
    if (has_unfinished()) {
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

  std::unique_ptr<GlooChannels> channels_;
  GlooTransport transport_;
  GlooChannels::Store store_;  // of the whole job
  bool has_abandoned_ = false;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      const GlooRendezvous& rendezvous) {
  const Deadline deadline = Deadline::after(timeout);
  while (true) {
    const auto left =
        std::max(kShortestTimeout,
                 std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining()));
    const auto store = open_gloo_store(environment, rendezvous, left);
    try {
      const auto job = agree_on_gloo_group(store, environment, deadline);
      auto channels = std::make_unique<GlooChannels>(job, environment, left);
      return std::make_shared<GlooProcessGroup>(environment, timeout, std::move(channels), job);
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

}  // namespace lockstep

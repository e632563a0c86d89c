// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "comm/exchange/backend.h"
#include "comm/gloo/channels.h"
#include "comm/gloo/make_process_group.h"
#include "comm/gloo/peer_watch.h"
#include "comm/gloo/store_rendezvous.h"
#include "comm/gloo/transport.h"
#include "comm/group/group_core.h"
#include "concurrency/deadline.h"

namespace lockstep {
namespace {

constexpr std::chrono::milliseconds kShortestTimeout{50};

class GlooBackend final : public ExchangeBackend {
 public:
  /// `store`: that of the whole job. `serves_store`: whether this rank's process serves it.
  GlooBackend(GroupContext& group, std::unique_ptr<GlooChannels> channels,
              GlooChannels::Store store, bool serves_store)
      : ExchangeBackend(group),
        channels_(std::move(channels)),
        transport_(*channels_),
        store_(std::move(store)),
        serves_store_(serves_store) {}

  ~GlooBackend() override {
    if (group().is_copy_of_fork()) {
      release_untouched();
      return;
    }
    if (!channels_) return;
    if (!group().is_failure_shared()) abort("its process group was destroyed without close()");
    if (serves_store_) channels_->let_others_hear();
    const bool is_busy = group().has_unfinished();
    close_channels();
    if (is_busy) group().keep_unfinished();
  }

 private:
  [[nodiscard]] Transport& transport() noexcept override { return transport_; }

  std::unique_ptr<CommBackend> make_group(GroupContext& part, const std::vector<int>&) override {
    auto channels = std::make_unique<GlooChannels>(
        gloo_store_part(part.environment().job_id, store_), part.environment(), part.timeout());
    return std::make_unique<GlooBackend>(part, std::move(channels), store_, serves_store_);
  }

  [[nodiscard]] std::function<std::string()> peer_watch() override {
    return [watch = std::make_shared<GlooPeerWatch>(*channels_)] { return watch->poll(); };
  }

  void release() override { close_channels(); }

  /// If nothing is under way, the connections close now, which wakes ranks that wait for this one.
  /// Otherwise c10d would wait for work that never ends, so the channels are left in memory.
  void close_channels() {
    if (group().has_unfinished()) {
      [[maybe_unused]] auto* kept = channels_.release();
    }
    channels_.reset();
  }

  /// A fork does not have c10d's threads, and its destructors would wait for them.
  void release_untouched() noexcept {
    [[maybe_unused]] auto* kept_channels = channels_.release();
    [[maybe_unused]] auto* kept_store = store_.release();
  }

  void abort(const std::string& reason) noexcept override {
    if (channels_) ExchangeBackend::abort(reason);
  }

  std::unique_ptr<GlooChannels> channels_;
  GlooTransport transport_;
  GlooChannels::Store store_;
  bool serves_store_;
};

std::unique_ptr<ExchangeBackend> connect_ranks(GroupContext& group,
                                               const GlooRendezvous& rendezvous) {
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
      const bool serves_store = environment.rank == 0 && !rendezvous.has_server;
      return std::make_unique<GlooBackend>(group, std::move(channels), job, serves_store);
    } catch (const LaunchError&) {
      throw;
    } catch (const std::exception& error) {
      // A rank that is fast may still have reached the store of the group before.
      if (deadline.has_passed()) {
        throw LaunchError("gloo could not connect the ranks: " + message_of(error));
      }
      std::this_thread::sleep_for(kShortestTimeout);
    }
  }
}

}  // namespace

std::unique_ptr<ExchangeBackend> make_gloo_backend(GroupContext& group,
                                                   const GlooRendezvous& rendezvous) {
  return connect_ranks(group, rendezvous);
}

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      const GlooRendezvous& rendezvous) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Gloo, environment, timeout,
                      [&](GroupContext& group) { return connect_ranks(group, rendezvous); }));
}

}  // namespace lockstep

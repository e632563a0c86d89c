// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo_process_group.h"

#include <lockstep/core/error.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <utility>

#include "comm/gloo_channels.h"
#include "comm/gloo_operation.h"
#include "comm/single_process_group.h"

namespace lockstep {
namespace {

GlooChannels::Store prefixed(const std::string& prefix, const GlooChannels::Store& store) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, store);
}

class GlooProcessGroup final : public ProcessGroup {
 public:
  GlooProcessGroup(const LaunchEnvironment& environment, std::chrono::milliseconds timeout,
                   const GlooChannels::Store& store)
      : ProcessGroup(Backend::Gloo, environment, timeout),
        channels_(std::make_unique<GlooChannels>(prefixed(environment.job_id, store), environment,
                                                 timeout)),
        store_(store) {}

  ~GlooProcessGroup() override {
    if (is_closed()) return;
    if (!is_failure_shared()) abandon("its process group was destroyed without close()");
    // Without anything under way the connections close now, which wakes the others; else c10d would
    // wait for what never ends.
    if (!has_unfinished()) return;
    keep_unfinished();
    [[maybe_unused]] auto* kept = channels_.release();
  }

 private:
  std::unique_ptr<Operation> make_operation(Collective call) override {
    return make_gloo_operation(*channels_, std::move(call));
  }
  std::unique_ptr<Operation> make_send(at::Tensor tensor, int to, int tag) override {
    return make_gloo_send(*channels_, std::move(tensor), to, tag);
  }
  std::unique_ptr<Operation> make_receive(at::Tensor tensor, int from, int tag) override {
    return make_gloo_receive(*channels_, std::move(tensor), from, tag);
  }

  std::shared_ptr<ProcessGroup> make_group(LaunchEnvironment environment,
                                           const std::vector<int>&) override {
    return std::make_shared<GlooProcessGroup>(environment, timeout(), store_);
  }

  Memory allocate_bytes(std::size_t bytes) override {
    start(make_gloo_barrier(*channels_, bytes), "allocate").wait();
    auto owner = allocate_zeroed(bytes);
    void* data = owner.get();
    return {data, std::move(owner)};
  }

  void release() override { channels_.reset(); }

  void abandon(const std::string& reason) noexcept override {
    if (std::exchange(has_abandoned_, true)) return;
    channels_->say_leaving(reason);
  }

  std::unique_ptr<GlooChannels> channels_;
  GlooChannels::Store store_;  // of the whole job
  bool has_abandoned_ = false;
};

GlooChannels::Store open_store(const LaunchEnvironment& environment,
                               std::chrono::milliseconds timeout,
                               const GlooRendezvous& rendezvous) {
  c10d::TCPStoreOptions options;
  options.port = rendezvous.port;
  options.isServer = environment.rank == 0 && !rendezvous.has_server;
  options.waitWorkers = false;  // the groups wait, and say for whom
  options.timeout = timeout;
  options.multiTenant = true;  // one group after another, and ranks as threads
  try {
    return c10::make_intrusive<c10d::TCPStore>(rendezvous.host, options);
  } catch (const std::exception& error) {
    throw LaunchError("backend Gloo: rank " + std::to_string(environment.rank) + " could not " +
                      (options.isServer ? "serve" : "reach the meeting point") + " at " +
                      rendezvous.host + ":" + std::to_string(rendezvous.port) + ": " +
                      words_of(error));
  }
}

}  // namespace

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      const GlooRendezvous& rendezvous) {
  return std::make_shared<GlooProcessGroup>(environment, timeout,
                                            open_store(environment, timeout, rendezvous));
}

}  // namespace lockstep

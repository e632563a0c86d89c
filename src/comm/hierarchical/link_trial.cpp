// SPDX-License-Identifier: BSD-3-Clause
#include "comm/hierarchical/link_trial.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "comm/exchange/operation.h"
#include "comm/group/group_context.h"

namespace lockstep {
namespace {

constexpr const char* kCall = "init_process_group";
constexpr std::size_t kFewBytes = 8;
constexpr std::size_t kManyBytes = std::size_t{512} << 10;
constexpr int kShortTrials = 8;
constexpr int kLongTrials = 4;
// No clock and no link is better; keeps the figures finite.
constexpr double kShortest = 1e-7;

Fingerprint trial_of(std::size_t bytes) {
  Fingerprint fingerprint;
  fingerprint.elements = bytes;
  return fingerprint;
}

/// One exchange with a rank of another host. Owns the memory: where it never ends, MPI may still
/// write there.
class LinkTrial final : public ExchangeOperation {
 public:
  LinkTrial(Transport& transport, const HostLayout& layout, std::size_t bytes)
      : ExchangeOperation(transport, trial_of(bytes), 1, 1), outgoing_(bytes), incoming_(bytes) {
    const auto ranks = static_cast<std::size_t>(transport.world_size());
    trial_.sends.resize(ranks);
    trial_.receives.resize(ranks);
    const auto index = static_cast<std::size_t>(layout.own_index);
    if (index >= layout.smallest_host()) return;
    const std::size_t hosts = layout.hosts.size();
    const auto on_host = [&](std::size_t host) {
      return static_cast<std::size_t>(layout.hosts[host % hosts][index]);
    };
    trial_.sends[on_host(layout.own_host + 1)] = outgoing_;
    trial_.receives[on_host(layout.own_host + hosts - 1)] = incoming_;
  }

 private:
  bool start_step(int step, const Chunk&) override {
    if (step == 0) exchange(trial_);
    return step == 0;
  }

  std::vector<std::byte> outgoing_, incoming_;
  Exchange trial_;
};

double best_time(GroupContext& group, ExchangeBackend& backend, const HostLayout& layout,
                 std::size_t bytes, int trials) {
  double best = 1e9;
  for (int trial = 0; trial < trials; ++trial) {
    auto operation = std::make_unique<LinkTrial>(backend.transport(), layout, bytes);
    const auto start = std::chrono::steady_clock::now();
    group.run(std::move(operation), kCall);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count());
  }
  return best;
}

double largest_of_all(GroupContext& group, ExchangeBackend& backend, double own_value) {
  const auto own = at::full({1}, own_value, at::kDouble);
  const auto all = at::empty({group.size()}, at::kDouble);
  group.run(backend.make_operation({.op = CollectiveOp::AllGather,
                                    .inputs = {own},
                                    .outputs = all.view({group.size(), 1}).unbind(0)}),
            kCall);
  const auto* values = all.const_data_ptr<double>();
  return *std::max_element(values, values + group.size());
}

}  // namespace

bool is_true_on_all_ranks(GroupContext& group, ExchangeBackend& backend, bool is_so) {
  return largest_of_all(group, backend, is_so ? 0 : 1) == 0;
}

LinkSpeed measure_link(GroupContext& group, ExchangeBackend& backend, const HostLayout& layout) {
  const double few =
      largest_of_all(group, backend, best_time(group, backend, layout, kFewBytes, kShortTrials));
  const double many =
      largest_of_all(group, backend, best_time(group, backend, layout, kManyBytes, kLongTrials));
  return {.latency = std::max(few, kShortest),
          .bytes_per_second = static_cast<double>(kManyBytes) / std::max(many, kShortest)};
}

}  // namespace lockstep

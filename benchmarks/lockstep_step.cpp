// SPDX-License-Identifier: BSD-3-Clause
#include "lockstep_step.h"

#include <lockstep/comm/init.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <iostream>

namespace bench {
namespace {

lockstep::DistributedDataParallelOptions options_of(const Settings& settings) {
  lockstep::DistributedDataParallelOptions options;
  if (settings.bucket_cap_mib > 0) options.bucket_cap_bytes(settings.bucket_cap_mib << 20);
  options.tune_buckets_after(settings.tune_after);
  return options;
}

/// A step's figures as the model itself counted them, without the steps that were not timed.
Extras extras_of(const lockstep::DistributedDataParallelStatistics& before,
                 const lockstep::DistributedDataParallelStatistics& after) {
  const auto steps = static_cast<double>(after.steps - before.steps);
  if (steps == 0) return {};
  const auto mean = [&](auto member) {
    return 1000 * (after.total.*member - before.total.*member).count() / steps;
  };
  using Times = lockstep::DistributedDataParallelStatistics::Times;
  double bytes = 0;
  for (const auto& bucket : after.buckets) bytes += static_cast<double>(bucket.bytes);
  return {{"exposed_ms", mean(&Times::exposed)},
          {"communication_ms", mean(&Times::communication)},
          {"gradient_mib", bytes / (1 << 20)},
          {"copied_mib", static_cast<double>(after.copied_bytes) / (1 << 20)},
          {"buckets", static_cast<double>(after.buckets.size())}};
}

}  // namespace

void run_lockstep(const Settings& settings) {
  auto group = lockstep::init_process_group();
  // The driver reads this line.
  if (group->rank() == 0) std::cout << "backend " << to_string(group->backend()) << std::endl;
  with_model(settings.arch, [&](auto net) {
    lockstep::DistributedDataParallel<decltype(net)> model(net, group, options_of(settings));
    lockstep::DistributedDataParallelStatistics before;
    const auto measured = measure(
        settings, group->rank(), model, [] {},
        [&] {
          before = model->statistics();
          group->barrier();
        },
        [&] { return model->no_sync(); });
    write_figures(settings, group->rank(), measured, extras_of(before, model->statistics()));
  });
  group->close();
}

void run_alone(const Settings& settings) {
  auto group = lockstep::init_process_group();
  with_model(settings.arch, [&](auto net) {
    const auto measured = measure(
        settings, group->rank(), net, [] {}, [&] { group->barrier(); }, NoPause());
    write_figures(settings, group->rank(), measured);
  });
  group->close();
}

}  // namespace bench

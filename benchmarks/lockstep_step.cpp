// SPDX-License-Identifier: BSD-3-Clause
#include "lockstep_step.h"

#include <lockstep/comm/init.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/training/overlap_report.h>
#include <lockstep/training/profiler.h>

#include <functional>
#include <iostream>
#include <map>
#include <memory>

namespace bench {
namespace {

lockstep::DistributedDataParallelOptions options_of(const Settings& settings) {
  lockstep::DistributedDataParallelOptions options;
  if (settings.bucket_cap_mib > 0) options.bucket_cap_bytes(settings.bucket_cap_mib << 20);
  options.tune_buckets_after(settings.tune_after);
  return options;
}

using MakeHook = std::function<lockstep::CommunicationHook(const Settings&)>;

/// PowerSGD sends whole gradients during the warm-up, when training is most sensitive.
template <typename Hook, int kRank>
lockstep::CommunicationHook make_power_sgd(const Settings& settings) {
  return Hook(lockstep::hooks::PowerSgdOptions().matrix_approximation_rank(kRank).start_iteration(
      static_cast<std::uint64_t>(settings.warmup)));
}

const std::map<std::string, MakeHook>& hooks_by_name() {
  using namespace lockstep::hooks;
  static const std::map<std::string, MakeHook> hooks{
      {"fp16", [](const auto&) { return fp16_compress(); }},
      {"bf16", [](const auto&) { return bf16_compress(); }},
      {"int8", [](const auto&) { return Int8ErrorFeedback(); }},
      {"power_sgd_1", make_power_sgd<PowerSgd, 1>},
      {"power_sgd_4", make_power_sgd<PowerSgd, 4>},
      {"batched_power_sgd_4", make_power_sgd<BatchedPowerSgd, 4>},
  };
  return hooks;
}

lockstep::CommunicationHook make_hook(const Settings& settings) {
  return hooks_by_name().at(settings.hook)(settings);
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

/// How much of the communication ran while the device computed, in a few steps behind the timed
/// ones.
template <typename Model>
Extras overlap_of(const Settings& settings, const std::shared_ptr<lockstep::ProcessGroup>& group,
                  Model& model) {
  Settings few = settings;
  few.warmup = 0;
  few.steps = 3;
  few.interface.clear();
  using lockstep::training::Profiler;
  using lockstep::training::ProfilerOptions;
  Profiler profiler(group, settings.output / "traces",
                    ProfilerOptions().wait(0).warmup(0).active(1));
  measure(
      few, batches_of(settings, group->rank(), group->size()), model, [] {}, [] {},
      [&] { return model->no_sync(); });
  profiler.add(model->statistics());
  profiler.stop();
  const auto report = lockstep::training::overlap_report(profiler.last_trace().value());
  return {{"communication_hidden", report.communication.fraction().value_or(0)}};
}

}  // namespace

std::set<std::string> hook_names() {
  std::set<std::string> names;
  for (const auto& [name, make] : hooks_by_name()) names.insert(name);
  return names;
}

void run_lockstep(const Settings& settings) {
  auto group = lockstep::init_process_group();
  // The driver reads this line.
  if (group->rank() == 0) std::cout << "backend " << to_string(group->backend()) << std::endl;
  with_model(settings.arch, settings.seed, [&](auto net) {
    lockstep::DistributedDataParallel<decltype(net)> model(net, group, options_of(settings));
    if (!settings.hook.empty()) model->register_communication_hook(make_hook(settings));
    lockstep::DistributedDataParallelStatistics before;
    const auto measured = measure(
        settings, batches_of(settings, group->rank(), group->size()), model, [] {},
        [&] {
          before = model->statistics();
          group->barrier();
        },
        [&] { return model->no_sync(); });
    Extras extras = extras_of(before, model->statistics());
    if (settings.overlap) extras.merge(overlap_of(settings, group, model));
    write_figures(settings, group->rank(), measured, extras);
  });
  group->close();
}

void run_alone(const Settings& settings) {
  auto group = lockstep::init_process_group();
  with_model(settings.arch, settings.seed, [&](auto net) {
    const auto measured = measure(
        settings, batches_of(settings, group->rank(), group->size()), net, [] {},
        [&] { group->barrier(); }, NoPause());
    write_figures(settings, group->rank(), measured);
  });
  group->close();
}

}  // namespace bench

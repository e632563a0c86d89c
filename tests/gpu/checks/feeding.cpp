// SPDX-License-Identifier: BSD-3-Clause
// Steps 6 and 8: what runs at the same time, and the ring of pinned memory.
#include <lockstep/data.h>
#include <lockstep/data/loader/device_prefetcher.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/overlap_report.h>
#include <lockstep/training/profiler.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "checks.h"
#include "nets.h"

namespace gpu {
namespace {

using lockstep::data::DataLoader;
using lockstep::data::DataLoaderOptions;
using lockstep::data::DevicePrefetcher;

/// Sample i is filled with i.
struct Filled {
  std::int64_t values = 0;
  std::size_t count = 0;
  torch::data::Example<> get(std::size_t index) const {
    return {torch::full({values}, static_cast<double>(index), torch::kFloat),
            torch::tensor(static_cast<std::int64_t>(index))};
  }
  [[nodiscard]] std::size_t size() const { return count; }
};

struct Pictures {
  std::int64_t edge = 0;
  std::size_t count = 0;
  torch::data::Example<> get(std::size_t index) const {
    return {torch::full({3, edge, edge}, static_cast<double>(index % 7) / 7, torch::kFloat),
            torch::tensor(static_cast<std::int64_t>(index % 10))};
  }
  [[nodiscard]] std::size_t size() const { return count; }
};

DataLoaderOptions options_for(const Settings& settings, std::int64_t batch_size,
                              std::int64_t workers) {
  return DataLoaderOptions().batch_size(batch_size).workers(workers).pin_memory(!settings.is_cpu);
}

/// Keeps the device busy for some hundredths of a second.
void keep_busy(const Settings& settings) {
  const auto edge = settings.size(4096, 64);
  auto matrix = torch::ones({edge, edge}, at::TensorOptions(settings.device())) / edge;
  for (int i = 0; i < 10; ++i) matrix = matrix.mm(matrix);
}

/// Bytes a second of copies to the device, in 10^9.
double speed_of(const Settings& settings, const at::Tensor& source) {
  const auto target = torch::empty_like(source, source.options().device(settings.device()));
  target.copy_(source, /*non_blocking=*/true);
  synchronize(settings);
  constexpr int kTimes = 10;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kTimes; ++i) target.copy_(source, /*non_blocking=*/true);
  synchronize(settings);
  return static_cast<double>(source.nbytes()) * kTimes / seconds_since(begin) * 1e-9;
}

void compare_speeds(const Settings& settings) {
  const std::int64_t values = settings.size(1 << 22, 1 << 12);
  DataLoader loader(Filled{values, 16}, options_for(settings, 4, 1));
  double best_of_ring = 0;
  double best_of_pinned = 0;
  const auto pinned =
      torch::empty({4, values}, at::TensorOptions().pinned_memory(!settings.is_cpu));
  for (auto& batch : loader) {
    best_of_ring = std::max(best_of_ring, speed_of(settings, batch.data));
    best_of_pinned = std::max(best_of_pinned, speed_of(settings, pinned));
  }
  figure("ring_gb_per_s", best_of_ring);
  figure("pinned_gb_per_s", best_of_pinned);
  require(settings.is_cpu || best_of_ring >= 0.9 * best_of_pinned,
          "copies from the ring are slower than from memory of cudaMallocHost");
}

/// A slot is not written while a copy reads it, however long that takes.
void expect_whole_copies(const Settings& settings) {
  DataLoader loader(Filled{settings.size(1 << 20, 1 << 10), 64}, options_for(settings, 4, 2));
  std::vector<at::Tensor> right;
  for (int epoch = 0; epoch < 3; ++epoch) {
    for (auto& batch : loader) {
      keep_busy(settings);  // so that the copy begins long after the batch is let go of
      const auto data = batch.data.to(settings.device(), /*non_blocking=*/true);
      const auto target = batch.target.to(settings.device(), /*non_blocking=*/true);
      right.push_back((data == target.to(torch::kFloat).unsqueeze(1)).all());
    }
  }
  require(torch::stack(right).all().item<bool>(), "a slot was written while a copy read it");
}

/// A fork of the process is harmless, also to loaders that live.
void expect_harmless_fork(const Settings& settings) {
  DataLoader loader(Filled{16, 32}, options_for(settings, 4, 1));
  std::int64_t sum = 0;
  int batches = 0;
  for (auto& batch : loader) {
    if (++batches == 3) {
      const pid_t child = ::fork();
      if (child == 0) ::_exit(0);
      int status = 0;
      require(child > 0 && ::waitpid(child, &status, 0) == child && status == 0, "fork failed");
    }
    sum += batch.target.to(settings.device()).sum().item<std::int64_t>();
  }
  require(sum == 31 * 16, "batches are lost after a fork");
}

}  // namespace

void overlap(const Settings& settings) {
  const auto group = make_group(settings);
  Net net;
  fill_parameters(*net);
  if (!settings.is_cpu) {  // something to compute
    net->first = net->replace_module(
        "first", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 31).padding(15)));
  }
  net->to(settings.device());
  lockstep::DistributedDataParallel<Net> model(
      net, group,
      lockstep::DistributedDataParallelOptions().bucket_cap_bytes(4000).first_bucket_cap_bytes(
          500));
  torch::optim::SGD optimizer(model->parameters(), 0.01);
  const auto samples = settings.size(64, 4);
  DataLoader loader(Pictures{settings.size(224, 16), static_cast<std::size_t>(samples) * 8},
                    options_for(settings, samples, 2));
  using lockstep::training::Profiler;
  using lockstep::training::ProfilerOptions;
  Profiler profiler(group, settings.folder, ProfilerOptions().wait(1).warmup(1).active(4));
  bool is_early = group->size() == 1;
  for (auto& batch : DevicePrefetcher(loader, settings.device())) {
    optimizer.zero_grad();
    loss_of(model->forward(batch.data, /*uses_extra=*/true), batch.target).backward();
    optimizer.step();
    const auto statistics = model->statistics();
    is_early = is_early || statistics.moments.first_launch < statistics.moments.backward_end;
    if (profiler.is_recording()) profiler.add(statistics);
    profiler.step();
  }
  profiler.stop();
  require(profiler.last_trace().has_value(), "the profiler has saved no trace");
  const auto report = lockstep::training::overlap_report(*profiler.last_trace());
  if (const auto hidden = report.communication.fraction()) figure("communication_hidden", *hidden);
  if (const auto hidden = report.copy.fraction()) figure("copies_hidden", *hidden);
  figure("rows", static_cast<double>(report.devices.size() + report.streams.size()));
  require(group->size() == 1 || report.communication.fraction().has_value(),
          "the trace has no communication");
  require(is_early, "communication began after the end of backward");
  if (!settings.is_cpu) {
    require(report.copy.fraction().value_or(0) >= 0.9, "copies are not hidden");
  }
  group->close();
}

void pinned(const Settings& settings) {
  compare_speeds(settings);
  expect_whole_copies(settings);
  expect_harmless_fork(settings);
}

}  // namespace gpu

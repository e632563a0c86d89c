// SPDX-License-Identifier: BSD-3-Clause
// Steps 2, 4, 7, 9 and 10: training steps.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <lockstep/amp/autocast.h>
#include <lockstep/optim/sgd.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/graphed_step.h>
#include <resnet/resnet.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "checks.h"
#include "nets.h"

namespace gpu {
namespace {

using Wrapped = lockstep::DistributedDataParallel<Net>;
using Options = lockstep::DistributedDataParallelOptions;

Options small_buckets() {
  return Options().bucket_cap_bytes(4000).first_bucket_cap_bytes(500);
}

struct Job {
  const Settings& settings;
  std::shared_ptr<lockstep::ProcessGroup> group;

  [[nodiscard]] int rank() const { return group->rank(); }
  [[nodiscard]] int size() const { return group->size(); }
  /// This rank's part of a batch, or all of it.
  [[nodiscard]] at::Tensor data(std::int64_t step, bool is_all = false) const {
    const auto joined = make_images(step, 4 * size()).to(settings.device());
    return is_all ? joined : joined.narrow(0, 4 * rank(), 4);
  }
  [[nodiscard]] at::Tensor target(std::int64_t step, bool is_all = false) const {
    const auto joined = make_labels(step, 4 * size()).to(settings.device());
    return is_all ? joined : joined.narrow(0, 4 * rank(), 4);
  }
};

template <typename Model>
void train_on(Model& model, const Job& job, int steps, bool is_all,
              at::ScalarType dtype = at::kFloat) {
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    auto data = job.data(step, is_all).to(dtype);
    loss_of(model->forward(data), job.target(step, is_all)).backward();
    optimizer.step();
  }
}

/// Steps of DDP are those of one process on the joined batch.
void expect_parity(const Job& job, at::ScalarType dtype, at::MemoryFormat format, bool is_static,
                   bool is_symmetric) {
  const auto make = [&] {
    Net net;
    fill_parameters(*net);
    net->to(job.settings.device(), dtype);
    for (auto& parameter : net->parameters()) {
      if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(format));
    }
    return net;
  };
  auto net = make();
  Wrapped model(net, job.group,
                small_buckets().static_graph(is_static).symmetric_memory(is_symmetric));
  const int steps = static_cast<int>(job.settings.size(20, 4));
  train_on(model, job, steps, false, dtype);
  auto reference = make();
  train_on(reference, job, steps, true, dtype);
  const auto difference =
      (flat_parameters(net) - flat_parameters(reference)).abs().max().item<double>();
  const double allowed = dtype == at::kFloat ? 2e-5 : 5e-2;
  const std::string name = std::string(c10::toString(dtype)) + (is_static ? ", static graph" : "") +
                           (is_symmetric ? ", symmetric memory" : "");
  require(difference < allowed,
          "DDP in " + name + " differs from one process by " + std::to_string(difference));
  require(is_equal_on_all_ranks(*job.group, flat_parameters(net)),
          "ranks have different bits in " + name);
}

void expect_unused_and_accumulated(const Job& job) {
  Net net;
  fill_parameters(*net);
  net->to(job.settings.device());
  Wrapped model(net, job.group, small_buckets());
  // Only rank 0 uses the extra layer.
  for (int step = 0; step < 3; ++step) {
    model->zero_grad();
    {
      const auto guard = model->no_sync();
      loss_of(model->forward(job.data(step)), job.target(step)).backward();
    }
    loss_of(model->forward(job.data(step), job.rank() == 0), job.target(step)).backward();
    for (const auto& item : net->named_parameters()) {
      require(item.value().grad().defined(), item.key() + " has no gradient");
      require(is_equal_on_all_ranks(*job.group, item.value().grad()),
              "gradients of " + item.key() + " differ between ranks");
    }
  }
  model->zero_grad();
  loss_of(model->forward(job.data(4)), job.target(4)).backward();
  require(!net->extra->weight.grad().defined(), "a parameter that no rank used has a gradient");
}

void expect_join(const Job& job) {
  Net net;
  fill_parameters(*net);
  net->to(job.settings.device());
  Wrapped model(net, job.group, small_buckets());
  torch::optim::SGD optimizer(model->parameters(), 0.05);
  for (int step = 0; step < 2 + job.rank(); ++step) {
    optimizer.zero_grad();
    loss_of(model->forward(job.data(step)), job.target(step)).backward();
    optimizer.step();
  }
  model->join([&] { optimizer.step(); });
  require(is_equal_on_all_ranks(*job.group, flat_parameters(net)), "ranks differ after join");
}

void expect_other_stream(const Job& job) {
  if (job.settings.is_cpu) return;
  Net net;
  fill_parameters(*net);
  net->to(job.settings.device());
  Wrapped model(net, job.group, small_buckets());
  const c10::impl::VirtualGuardImpl device(c10::kCUDA);
  synchronize(job.settings);
  const c10::StreamGuard guard(device.getStreamFromGlobalPool(job.settings.device()));
  model->rebind();
  train_on(model, job, 5, false);
  Net reference;
  fill_parameters(*reference);
  reference->to(job.settings.device());
  train_on(reference, job, 5, true);
  const auto difference = (flat_parameters(net) - flat_parameters(reference)).abs().max();
  require(difference.item<double>() < 2e-5, "another stream gives other parameters");
}

void expect_late_gradients(const Job& job) {
  TwiceUsed net;
  net->to(job.settings.device());
  lockstep::DistributedDataParallel<TwiceUsed> model(net, job.group,
                                                     Options().bucket_caps_bytes({1}));
  model->forward(job.rank() + 1).backward();
  const double mean = 0.5 * (job.size() + 1);
  const auto expected = torch::full_like(net->weight, 11 * mean);
  require(torch::allclose(net->weight.grad(), expected), "a late gradient is not averaged");
}

/// Host seconds and seconds of the device of a step.
struct StepTimes {
  double host = 0;
  double whole = 0;
};

template <typename Step>
StepTimes time_steps(const Settings& settings, int steps, const Step& step) {
  synchronize(settings);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < steps; ++i) step(i);
  StepTimes times{seconds_since(begin) / steps, 0};
  synchronize(settings);
  times.whole = seconds_since(begin) / steps;
  return times;
}

struct Images {
  at::Tensor data, target;
};

Images images_of(const Settings& settings, std::int64_t batch, std::int64_t edge) {
  const auto options = at::TensorOptions(settings.device());
  return {torch::randn({batch, 3, edge, edge}, options).contiguous(at::MemoryFormat::ChannelsLast),
          torch::randint(10, {batch}, options.dtype(at::kLong))};
}

example::ResNet make_resnet(const Settings& settings, const std::string& arch) {
  torch::manual_seed(3);
  example::ResNet net(example::ResNetOptions(arch).num_classes(10).channels_last(settings.is_cpu));
  net->to(settings.device());
  for (auto& parameter : net->parameters()) {
    if (parameter.dim() == 4) {
      parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
    }
  }
  return net;
}

using WrappedResNet = lockstep::DistributedDataParallel<example::ResNet>;

}  // namespace

void ddp(const Settings& settings) {
  const Job job{settings, make_group(settings)};
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    for (const bool is_static : {false, true}) {
      expect_parity(job, at::kFloat, format, is_static, false);
    }
  }
  expect_parity(job, at::kFloat, at::MemoryFormat::Contiguous, true, true);
  expect_parity(job, at::kBFloat16, at::MemoryFormat::ChannelsLast, false, false);
  expect_unused_and_accumulated(job);
  expect_join(job);
  expect_late_gradients(job);
  expect_other_stream(job);
  figure("backend", std::string(to_string(job.group->backend())));
  job.group->close();
}

void graphed(const Settings& settings) {
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
  const auto group = make_group(settings);
  const std::string arch = settings.is_cpu ? "resnet8" : "resnet18";
  const int steps = static_cast<int>(settings.size(100, 6));
  const auto options = Options().static_graph(true);
  std::vector<Images> batches;
  torch::manual_seed(10 + static_cast<std::uint64_t>(group->rank()));
  for (int i = 0; i < 4; ++i) batches.push_back(images_of(settings, 4, 32));
  const auto batch = [&](int step) { return batches[static_cast<std::size_t>(step % 4)]; };

  auto eager_net = make_resnet(settings, arch);
  std::vector<at::Tensor> losses;
  const auto run_eagerly = [&](example::ResNet run_net, std::vector<at::Tensor>& run_losses) {
    WrappedResNet eager(run_net, group, options);
    torch::optim::SGD plain(eager->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
    return time_steps(settings, steps, [&](int step) {
      plain.zero_grad();
      const auto loss = loss_of(eager->forward(batch(step).data), batch(step).target);
      loss.backward();
      plain.step();
      run_losses.push_back(loss.detach());
    });
  };
  run_eagerly(eager_net, losses);
  // Kernels that add in any order differ without graphs too. This run has warm libraries.
  auto control_net = make_resnet(settings, arch);
  std::vector<at::Tensor> control_losses;
  const auto eager_times = run_eagerly(control_net, control_losses);
  const bool has_bits = torch::equal(flat_parameters(control_net), flat_parameters(eager_net));
  figure("eager_has_equal_bits", has_bits ? 1 : 0);
  const auto is_alike = [&](const at::Tensor& one, const at::Tensor& other) {
    return has_bits ? torch::equal(one, other) : torch::allclose(one, other, 1e-2, 1e-3);
  };

  auto net = make_resnet(settings, arch);
  WrappedResNet model(net, group, options);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  using Batch = std::pair<at::Tensor, at::Tensor>;
  lockstep::GraphedStep step(model, optimizer, loss_of, Batch(batch(0).data, batch(0).target));
  std::vector<at::Tensor> graphed_losses;
  const auto make_step = [&](int i) {
    graphed_losses.push_back(step(Batch(batch(i).data, batch(i).target)));
  };
  for (int i = 0; i < 5; ++i) make_step(i);
  const auto times = time_steps(settings, steps - 5, [&](int i) { make_step(i + 5); });
  figure("eager_host_ms", eager_times.host * 1e3);
  figure("eager_ms", eager_times.whole * 1e3);
  figure("graphed_host_ms", times.host * 1e3);
  figure("graphed_ms", times.whole * 1e3);
  figure("graphed_speedup", eager_times.whole / times.whole);
  require(step.is_captured() == !settings.is_cpu, "the step was not captured");
  // Differences grow from step to step.
  for (int i = 0; i < (has_bits ? steps : std::min(steps, 10)); ++i) {
    const auto at = static_cast<std::size_t>(i);
    require(is_alike(losses[at], graphed_losses[at]),
            "the loss of step " + std::to_string(i) + " differs from that of an eager step");
  }
  require(!has_bits || torch::equal(flat_parameters(net), flat_parameters(eager_net)),
          "parameters differ from those of eager steps");
  require(is_equal_on_all_ranks(*group, flat_parameters(net)), "ranks have different bits");
  group->close();
}

// --mode alone, ddp
void resnet50(const Settings& settings) {
  const auto group = make_group(settings);
  auto net = make_resnet(settings, settings.is_cpu ? "resnet8" : "resnet50");
  std::optional<WrappedResNet> model;
  if (settings.mode == "ddp") model.emplace(net, group, Options().static_graph(true));
  using lockstep::optim::SGDOptions;  // fused, as Python's
  lockstep::optim::SGD optimizer(net->parameters(), SGDOptions(0.1).momentum(0.9));
  const std::int64_t samples = settings.size(256, 4);
  const auto images = images_of(settings, samples, settings.size(224, 32));
  const auto step = [&](int) {
    optimizer.zero_grad();
    at::Tensor loss;
    {
      const lockstep::amp::autocast guard(settings.device().type(), at::kBFloat16);
      const auto output = model ? (*model)->forward(images.data) : net->forward(images.data);
      loss = loss_of(output, images.target);
    }
    loss.backward();
    optimizer.step();
  };
  time_steps(settings, static_cast<int>(settings.size(8, 1)), step);
  const auto times = time_steps(settings, static_cast<int>(settings.size(30, 2)), step);
  figure("images_per_s", static_cast<double>(samples) / times.whole);
  group->close();
}

void growth(const Settings& settings) {
  const auto group = make_group(settings);
  auto net = make_resnet(settings, "resnet8");
  WrappedResNet model(net, group);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  const int steps = static_cast<int>(settings.size(200, 12));
  DeviceMemory before, after;  // at the same point of a step
  for (int step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    const auto images = images_of(settings, 8, 32);
    loss_of(model->forward(images.data), images.target).backward();
    optimizer.step();
    synchronize(settings);
    if (step == 5) before = memory_of(settings);
    if (step + 1 == steps) after = memory_of(settings);
  }
  figure("allocated_growth_bytes", static_cast<double>(after.allocated - before.allocated));
  figure("reserved_growth_bytes", static_cast<double>(after.reserved - before.reserved));
  figure("device_growth_mib", static_cast<double>(before.free - after.free) / (1 << 20));
  require(after.allocated <= before.allocated && after.reserved <= before.reserved,
          "memory grows from step to step");
  require(before.free - after.free < (std::int64_t{4} << 20),
          "the driver's memory grows: events or streams are left");
  group->close();
}

}  // namespace gpu

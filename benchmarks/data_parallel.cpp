// SPDX-License-Identifier: BSD-3-Clause
//
// One start of a variant of the data_parallel benchmark; data_parallel_driver.py starts it and
// reads its figures.
#include <lockstep/comm/init.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/parallel/data_parallel.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <resnet/resnet.h>
#include <torch/nn/parallel/data_parallel.h>
#include <torch/torch.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "batches.h"
#include "training_step.h"

namespace {

using bench::Batch;
using bench::Measured;
using bench::Settings;

constexpr int kRanks = 2;

/// The ResNet with the `clone` that LibTorch's `replicate` needs.
struct ClonedResNetImpl : example::ResNetImpl {
  explicit ClonedResNetImpl(const example::ResNetOptions& given)
      : example::ResNetImpl(given), options(given) {}

  [[nodiscard]] std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device) const override {
    const torch::NoGradGuard no_grad;
    const auto copy = std::make_shared<ClonedResNetImpl>(options);
    const auto copy_all = [&](const auto& sources, const auto& targets) {
      for (const auto& item : sources) {
        auto target = targets[item.key()];
        target.set_data(item.value().clone().to(device.value_or(item.value().device())));
      }
    };
    copy_all(named_parameters(), copy->named_parameters());
    copy_all(named_buffers(), copy->named_buffers());
    return copy;
  }

  example::ResNetOptions options;
};
TORCH_MODULE(ClonedResNet);

ClonedResNet make_net(const Settings& settings) {
  torch::manual_seed(settings.seed);
  return ClonedResNet(
      example::ResNetOptions(settings.arch).num_classes(bench::kClasses).channels_last(false));
}

std::vector<bench::Batches> batches_of_ranks(const Settings& settings) {
  std::vector<bench::Batches> batches;
  for (int rank = 0; rank < kRanks; ++rank) {
    batches.push_back(bench::one_random_batch(settings.arch, settings.batch, rank));
  }
  return batches;
}

/// The batches of all ranks as one.
bench::Batches whole_batches(const Settings& settings) {
  std::vector<torch::Tensor> data, labels;
  for (const auto& batches : batches_of_ranks(settings)) {
    const Batch part = batches(0);
    data.push_back(part.data);
    labels.push_back(part.labels);
  }
  const Batch whole{torch::cat(data), torch::cat(labels)};
  return [whole](std::int64_t) { return whole; };
}

torch::Tensor loss_of(const torch::Tensor& scores, const torch::Tensor& labels) {
  return torch::nn::functional::cross_entropy(scores, labels);
}

/// A rank's training with DistributedDataParallel, whatever the rank is.
void train_rank(const Settings& settings, const bench::Batches& batches,
                const std::shared_ptr<lockstep::ProcessGroup>& group, const ClonedResNet& net) {
  lockstep::DistributedDataParallel<ClonedResNet> model(net, group);
  const auto measured = bench::measure(
      settings, batches, model, [] {}, [&] { group->barrier(); }, bench::NoPause());
  bench::write_figures(settings, group->rank(), measured);
}

void run_process(const Settings& settings) {
  torch::set_num_threads(1);
  const auto group = lockstep::init_process_group();
  train_rank(settings, batches_of_ranks(settings).at(static_cast<std::size_t>(group->rank())),
             group, make_net(settings));
  group->close();
}

void run_threads(const Settings& settings) {
  const auto batches = batches_of_ranks(settings);
  std::vector<ClonedResNet> nets;
  for (int rank = 0; rank < kRanks; ++rank) nets.push_back(make_net(settings));
  lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU}, lockstep::LocalRanksOptions().threads(1));
  ranks.run([&](const std::shared_ptr<lockstep::ProcessGroup>& group, torch::Device) {
    const auto rank = static_cast<std::size_t>(group->rank());
    train_rank(settings, batches[rank], group, nets[rank]);
  });
  ranks.close();
}

/// Times steps of a program with one loop. `backward` returns the loss.
void train_whole(const Settings& settings, const ClonedResNet& net,
                 const std::function<torch::Tensor(const Batch&)>& backward) {
  torch::optim::SGD optimizer(net->parameters(),
                              torch::optim::SGDOptions(settings.learning_rate).momentum(0.9));
  const auto batches = whole_batches(settings);
  Measured measured;
  double second_loss = 0;
  for (int step = 0; step < settings.warmup + settings.steps; ++step) {
    const Batch batch = batches(step);
    const auto start = std::chrono::steady_clock::now();
    optimizer.zero_grad();
    const auto loss = backward(batch);
    optimizer.step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (step == 1) second_loss = loss.item<double>();
    if (step >= settings.warmup) measured.milliseconds.push_back(took.count());
  }
  // The programs with one loop have the same mathematics; the loss after the first step tells.
  bench::write_figures(settings, 0, measured, {{"second_loss", second_loss}});
}

void run_step(const Settings& settings) {
  const auto net = make_net(settings);
  lockstep::LocalRanks ranks({torch::kCPU, torch::kCPU}, lockstep::LocalRanksOptions().threads(1));
  lockstep::DataParallel<ClonedResNet> replicated(net, ranks);
  train_whole(settings, net, [&](const Batch& batch) {
    return replicated.step(batch.data, batch.labels, loss_of);
  });
}

/// What LibTorch has: its data_parallel() takes CUDA devices only, so its parts are put together
/// here as it does.
void run_libtorch(const Settings& settings) {
  const std::vector<torch::Device> devices(kRanks, torch::Device(torch::kCPU));
  torch::set_num_threads(kRanks);
  const auto net = make_net(settings);
  train_whole(settings, net, [&](const Batch& batch) {
    auto replicas = torch::nn::parallel::replicate(net, devices);
    const auto outputs =
        torch::nn::parallel::parallel_apply(replicas, batch.data.chunk(kRanks), devices);
    const auto loss = loss_of(torch::cat(outputs), batch.labels);
    loss.backward();
    return loss;
  });
}

const std::map<std::string, std::function<void(const Settings&)>>& variants() {
  static const std::map<std::string, std::function<void(const Settings&)>> all{
      {"processes", run_process},
      {"threads", run_threads},
      {"step", run_step},
      {"libtorch", run_libtorch}};
  return all;
}

/// `--name value` pairs, as the driver gives them.
Settings settings_of(int argc, char** argv) {
  Settings settings;
  const std::map<std::string, std::function<void(const std::string&)>> options{
      {"--variant", [&](const std::string& value) { settings.variant = value; }},
      {"--arch", [&](const std::string& value) { settings.arch = value; }},
      {"--batch", [&](const std::string& value) { settings.batch = std::stoll(value); }},
      {"--warmup", [&](const std::string& value) { settings.warmup = std::stoi(value); }},
      {"--steps", [&](const std::string& value) { settings.steps = std::stoi(value); }},
      {"--output", [&](const std::string& value) { settings.output = value; }}};
  for (int i = 1; i < argc; i += 2) {
    const auto option = options.find(argv[i]);
    if (option == options.end() || i + 1 == argc) {
      throw std::runtime_error(std::string("unknown or incomplete argument ") + argv[i]);
    }
    option->second(argv[i + 1]);
  }
  if (!variants().contains(settings.variant)) {
    throw std::runtime_error("unknown variant '" + settings.variant + "'");
  }
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::string(argv[1]) == "--describe") {
      std::cout << "torch " << TORCH_VERSION << '\n';
      return EXIT_SUCCESS;
    }
    const Settings settings = settings_of(argc, argv);
    variants().at(settings.variant)(settings);
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "data_parallel: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

// SPDX-License-Identifier: BSD-3-Clause
// Trains a residual network on Fashion-MNIST with several devices of one process, without a
// launcher:  data_parallel --ranks 2 --epochs 1
#include "resnet.h"
#include "run_program.h"

#include <lockstep/comm/local_ranks.h>
#include <lockstep/lockstep.h>
#include <lockstep/parallel/data_parallel.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace lockstep::data;
using example::ResNet;
using Loader = DataLoader<IdxDataset>;

struct Options {
  std::string data = "/usr/share/datasets/fashion-mnist";
  int ranks = 2;
  int epochs = 1;
  std::int64_t batch_size = 128;  // of all ranks together
  std::int64_t limit = 60000;     // of training images; a sixth as many test images
  double learning_rate = 0.1;
  std::uint64_t seed = 7;
};

// Each GPU is a device, and the CPU is as many as asked for.
std::vector<torch::Device> devices_of(const Options& options) {
  std::vector<torch::Device> devices;
  for (int rank = 0; rank < options.ranks; ++rank) {
    const bool has_gpu = rank < torch::cuda::device_count();
    devices.push_back(has_gpu ? torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(rank))
                              : torch::Device(torch::kCPU));
  }
  // Ranks on GPUs and ranks on the CPU would wait for each other.
  if (devices.back().is_cpu()) devices.assign(devices.size(), torch::Device(torch::kCPU));
  return devices;
}

Loader make_loader(const Options& options, bool is_training) {
  const std::string prefix = options.data + (is_training ? "/train" : "/t10k");
  const auto size = is_training ? options.limit : options.limit / 6;
  return Loader(
      IdxDataset(prefix + "-images-idx3-ubyte.gz", prefix + "-labels-idx1-ubyte.gz",
                 IdxDatasetOptions().mean(0.286).std(0.353)),
      DistributedSampler(static_cast<std::size_t>(size), 1, 0,
                         DistributedSamplerOptions().shuffle(is_training).seed(options.seed)),
      DataLoaderOptions().batch_size(options.batch_size).workers(1).drop_last(is_training));
}

torch::Tensor loss_of(const torch::Tensor& scores, const torch::Tensor& target) {
  return torch::nn::functional::cross_entropy(scores, target);
}

void train(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  auto train_loader = make_loader(options, true);
  auto test_loader = make_loader(options, false);
  const auto make_net = [] {
    return ResNet(example::ResNetOptions("resnet8").in_channels(1).num_classes(10));
  };

  torch::manual_seed(options.seed);
  lockstep::LocalRanks ranks(devices_of(options));
  ResNet net = make_net();
  net->to(ranks.devices().front());
  // This network has no clone(); the function makes the other ranks' replicas.
  lockstep::DataParallel<ResNet> replicated(net, ranks, make_net);
  torch::optim::SGD optimizer(net->parameters(),
                              torch::optim::SGDOptions(options.learning_rate).momentum(0.9));
  lockstep::optim::lr_scheduler::CosineAnnealingLR schedule(
      optimizer, options.epochs * static_cast<std::int64_t>(train_loader.size()));
  std::int64_t images = 0;
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    train_loader.set_epoch(epoch);
    net->train();
    for (auto& batch : train_loader) {
      optimizer.zero_grad();
      const auto loss = replicated.step(batch.data, batch.target, loss_of);
      optimizer.step();
      schedule.step();
      images += batch.target.size(0);
      if (images / options.batch_size % 100 == 0) {
        std::printf("%lld images, loss %.4f\n", static_cast<long long>(images),
                    loss.item<double>());
      }
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  lockstep::training::Accuracy accuracy;
  net->eval();
  for (auto& batch : test_loader) {
    accuracy.update(replicated.forward(batch.data).cpu(), batch.target);
  }
  std::printf("result: accuracy=%.4f samples_per_second=%.0f seconds=%.0f ranks=%d\n",
              accuracy.compute(), static_cast<double>(images) / seconds.count(), seconds.count(),
              ranks.size());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a residual network with several devices of one process", "data_parallel");
  app.add_option("--data", options.data, "Folder of Fashion-MNIST")->check(CLI::ExistingDirectory);
  app.add_option("--ranks", options.ranks, "Devices: GPUs, or shares of the CPU")
      ->check(CLI::Range(1, 64));
  app.add_option("--epochs", options.epochs, "Passes over the images")->check(CLI::PositiveNumber);
  app.add_option("--batch", options.batch_size, "Images a step, of all ranks together")
      ->check(CLI::PositiveNumber);
  app.add_option("--limit", options.limit, "Training images")->check(CLI::Range(6, 60000));
  app.add_option("--lr", options.learning_rate, "Learning rate")->check(CLI::PositiveNumber);
  return example::run_program(app, argc, argv, [&] { train(options); });
}

// SPDX-License-Identifier: BSD-3-Clause
#include "trained_models.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>

namespace example {
namespace {

using namespace lockstep::data;

void train(const ModelOptions& options, std::uint64_t seed, const std::string& path) {
  constexpr std::int64_t kBatch = 32;
  torch::manual_seed(seed);
  auto net = make_net(options.arch);
  // Other images in another order for each seed: models that err alike are no better together.
  DataLoader<IdxDataset> loader(
      fashion_mnist(options.data, true),
      DistributedSampler(60000, 1, 0, DistributedSamplerOptions().shuffle(true).seed(seed)),
      DataLoaderOptions().batch_size(kBatch).workers(0).drop_last(true));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  const auto steps = options.images / kBatch;
  lockstep::optim::lr_scheduler::CosineAnnealingLR schedule(optimizer, steps);
  std::int64_t step = 0;
  double loss_value = 0;
  for (auto& batch : loader) {
    optimizer.zero_grad();
    const auto loss = torch::nn::functional::cross_entropy(net->forward(batch.data), batch.target);
    loss.backward();
    optimizer.step();
    schedule.step();
    loss_value = loss.item<double>();
    if (++step == steps) break;
  }
  lockstep::training::save_state(net, path);
  std::printf("trained %s, loss %.3f\n", path.c_str(), loss_value);
}

}  // namespace

IdxDataset fashion_mnist(const std::string& folder, bool is_training) {
  const std::string prefix = folder + (is_training ? "/train" : "/t10k");
  return IdxDataset(prefix + "-images-idx3-ubyte.gz", prefix + "-labels-idx1-ubyte.gz",
                    IdxDatasetOptions().mean(0.286).std(0.353));
}

ResNet make_net(const std::string& arch) {
  return ResNet(ResNetOptions(arch).in_channels(1).num_classes(10));
}

std::vector<std::string> find_or_train_models(const ModelOptions& options) {
  if (!options.models.empty()) return options.models;
  std::filesystem::create_directories(options.folder);
  std::vector<std::string> paths;
  for (int seed = 1; seed <= options.count; ++seed) {
    paths.push_back(options.folder + "/seed" + std::to_string(seed) + ".safetensors");
    if (!std::filesystem::exists(paths.back())) {
      train(options, static_cast<std::uint64_t>(seed), paths.back());
    }
  }
  return paths;
}

}  // namespace example

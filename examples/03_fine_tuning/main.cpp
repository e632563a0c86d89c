// SPDX-License-Identifier: BSD-3-Clause
// Trains a network further whose weights Python has written, on other classes than it knew:
//   python -c '... safetensors.torch.save_model(net, "known.safetensors")'
//   fine_tuning --weights known.safetensors --save tuned.safetensors
//   mpirun -n 2 fine_tuning --weights known.safetensors --save tuned.safetensors --freeze
// The network in Python is
//   class Net(torch.nn.Module):
//       def __init__(self, classes):
//           super().__init__()
//           self.features = Sequential(Conv2d(1, 8, 3), BatchNorm2d(8), ReLU(),
//                                      Conv2d(8, 16, 3, stride=2), BatchNorm2d(16), ReLU())
//           self.head = Linear(16, classes)
//       def forward(self, x):
//           return self.head(self.features(x).mean((2, 3)))
#include "run_program.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace lockstep::data;
using namespace lockstep::training;

constexpr std::int64_t kClasses = 4;
constexpr std::int64_t kSide = 12;  // pixels

struct Options {
  std::string weights;
  std::string save;
  int epochs = 3;
  bool freeze = false;
};

struct NetImpl : torch::nn::Module {
  torch::Tensor forward(const torch::Tensor& pictures) {
    return head(features->forward(pictures).mean({2, 3}));
  }

  torch::nn::Sequential features = register_module(
      "features",
      torch::nn::Sequential(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 8, 3)),
                            torch::nn::BatchNorm2d(8), torch::nn::ReLU(),
                            torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 16, 3).stride(2)),
                            torch::nn::BatchNorm2d(16), torch::nn::ReLU()));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(16, kClasses));
};
TORCH_MODULE(Net);

// A picture shows stripes of one of four directions, in noise.
struct Stripes {
  torch::data::Example<> get(std::size_t index) {
    const auto label = static_cast<std::int64_t>(index) % kClasses;
    const double angle = 0.785 * static_cast<double>(label);
    const auto along = torch::arange(kSide, torch::kFloat);
    const auto waves =
        along.view({1, -1}) * std::cos(angle) + along.view({-1, 1}) * std::sin(angle);
    const auto picture = torch::sin(1.5 * waves + 6.28 * torch::rand({1}));
    return {(picture + 0.3 * torch::randn({kSide, kSide})).unsqueeze(0), torch::tensor(label)};
  }
  std::size_t size() const { return 240; }
};

// Loads all but the head, which is for other classes. A tensor of the file does not count when its
// name becomes an empty one.
void load_backbone(Net& net, const std::string& path) {
  const auto without_head = [](const std::string& name) {
    return name.starts_with("head.") ? std::string() : name;
  };
  const auto loaded = load_state(net, path, LoadOptions().strict(false).rename(without_head));
  for (const auto& name : loaded.missing) {
    TORCH_CHECK(name.starts_with("head."), path, ": has no '", name, "', which this network needs");
  }
}

// What the network knows already changes slowly, or not at all.
std::vector<torch::optim::OptimizerParamGroup> parameter_groups(Net& net, bool freeze) {
  const auto group_of = [](std::vector<torch::Tensor> parameters, double rate) {
    return torch::optim::OptimizerParamGroup(
        std::move(parameters),
        std::make_unique<torch::optim::SGDOptions>(torch::optim::SGDOptions(rate).momentum(0.9)));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups{group_of(net->head->parameters(), 0.1)};
  if (!freeze) groups.push_back(group_of(net->features->parameters(), 0.01));
  return groups;
}

void train(const Options& options) {
  auto group = lockstep::init_process_group();  // any launcher, or alone
  torch::manual_seed(7);
  at::set_num_threads(1);  // for so small a network
  Net net;
  load_backbone(net, options.weights);  // on each rank; before the model is wrapped, or after
  if (options.freeze) {
    for (auto& parameter : net->features->parameters()) parameter.set_requires_grad(false);
  }
  lockstep::DistributedDataParallel<Net> model(net, group);
  torch::optim::SGD optimizer(parameter_groups(net, options.freeze), torch::optim::SGDOptions(0.1));
  DataLoader loader(Stripes(),
                    DistributedSampler(Stripes().size(), group->size(), group->rank(),
                                       DistributedSamplerOptions().shuffle(true).seed(7)),
                    DataLoaderOptions().batch_size(8).seed(7));

  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    loader.set_epoch(epoch);
    net->train();
    if (options.freeze) net->features->eval();      // running statistics stay as well
    auto sums = torch::zeros({2}, torch::kDouble);  // right answers, samples
    for (auto& batch : loader) {
      optimizer.zero_grad();
      const auto scores = model->forward(batch.data);
      torch::nn::functional::cross_entropy(scores, batch.target).backward();
      optimizer.step();
      sums[0] += scores.argmax(1).eq(batch.target).sum();
      sums[1] += batch.target.size(0);
    }
    group->all_reduce(sums).wait();
    if (group->rank() == 0) {
      std::printf("epoch %d: accuracy %.4f\n", epoch + 1, (sums[0] / sums[1]).item<double>());
    }
  }
  model->broadcast_buffers();  // running statistics are each rank's own until here
  if (group->rank() == 0 && !options.save.empty()) {
    save_state(net, options.save);
    std::printf("saved: %s\n", options.save.c_str());
  }
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a network further whose weights Python has written.", "fine_tuning");
  app.option_defaults()->always_capture_default();
  app.add_option("--weights", options.weights, "File that safetensors.torch.save_model has written")
      ->required()
      ->type_name("FILE");
  app.add_option("--save", options.save, "File for the weights at the end")->type_name("FILE");
  app.add_option("--epochs", options.epochs, "Passes over the pictures")
      ->check(CLI::Range(0, 100000));
  app.add_flag("--freeze", options.freeze, "Changes the head alone");
  return example::run_program(app, argc, argv, [&] { train(options); });
}

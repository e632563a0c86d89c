// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <resnet/resnet.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

/// What all C++ variants of ddp_step share: the settings, the timed training step and the file of
/// figures.
namespace bench {

inline constexpr std::int64_t kClasses = 1000;

struct Settings {
  std::string variant;
  std::string arch = "resnet18";
  std::int64_t batch = 32;
  int warmup = 5;
  int steps = 20;
  std::filesystem::path output;  ///< folder for the figures
};

/// The model of all variants, in PyTorch's default memory layout, as Python's side has it.
inline example::ResNet make_model(const Settings& settings) {
  torch::manual_seed(1);
  return example::ResNet(
      example::ResNetOptions(settings.arch).num_classes(kClasses).channels_last(false));
}

struct Batch {
  torch::Tensor images;
  torch::Tensor labels;
};

inline Batch make_batch(const Settings& settings, int rank) {
  torch::manual_seed(static_cast<std::uint64_t>(rank));
  return {torch::randn({settings.batch, 3, 32, 32}),
          torch::randint(kClasses, {settings.batch}, torch::kLong)};
}

/// Trains and returns the milliseconds of each timed step. `after_backward` runs between backward
/// and the optimizer, `barrier` before the first timed step, so that all ranks are timed while all
/// of them work.
template <typename Model, typename AfterBackward, typename Barrier>
std::vector<double> measure(const Settings& settings, int rank, Model& model,
                            AfterBackward&& after_backward, Barrier&& barrier) {
  const Batch batch = make_batch(settings, rank);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  std::vector<double> milliseconds;
  for (int step = 0; step < settings.warmup + settings.steps; ++step) {
    if (step == settings.warmup) barrier();
    const auto start = std::chrono::steady_clock::now();
    optimizer.zero_grad();
    auto loss = torch::nn::functional::cross_entropy(model->forward(batch.images), batch.labels);
    loss.backward();
    after_backward();
    optimizer.step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (step >= settings.warmup) milliseconds.push_back(took.count());
  }
  return milliseconds;
}

inline void write_figures(const Settings& settings, int rank, const std::vector<double>& figures) {
  std::ofstream file(settings.output / ("rank" + std::to_string(rank) + ".txt"));
  for (const double value : figures) file << value << '\n';
  if (!file.flush()) {
    throw std::runtime_error("cannot write the figures into " + settings.output.string());
  }
}

}  // namespace bench

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "batches.h"
#include "models.h"

/// What all C++ variants of ddp_step share: the settings, the timed training step and the files of
/// figures.
namespace bench {

struct Settings {
  std::string variant;
  std::string arch = "resnet18";
  std::int64_t batch = 32;
  int warmup = 5;
  int steps = 20;
  int accumulate = 1;              ///< backwards a step; all but the last communicate nothing
  std::size_t bucket_cap_mib = 0;  ///< 0: the default
  std::size_t tune_after = 0;
  std::string hook;    ///< Lockstep's communication hook; empty: none
  std::string images;  ///< folder of Fashion-MNIST; empty: one random batch
  double learning_rate = 0.1;
  std::uint64_t seed = 1;        ///< of the model and of the order of images
  bool overlap = false;          ///< whether Lockstep's overlap is measured, in steps of its own
  std::string interface;         ///< whose sent bytes are counted; empty: none
  std::filesystem::path output;  ///< folder for the figures
};

using Extras = std::map<std::string, double>;

/// Bytes that this host has sent by a network interface so far.
inline double sent_bytes(const std::string& interface) {
  constexpr int kFieldsBeforeSent = 8;
  std::ifstream table("/proc/self/net/dev");
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string field;
    if (!(fields >> field) || field != interface + ":") continue;
    for (int i = 0; i <= kFieldsBeforeSent; ++i) fields >> field;
    return std::stod(field);
  }
  throw std::runtime_error("this host has no network interface " + interface);
}

/// What a rank trains on.
inline Batches batches_of(const Settings& settings, int rank, int ranks) {
  if (settings.images.empty()) return one_random_batch(settings.arch, settings.batch, rank);
  return fashion_mnist_batches(settings.images, settings.seed, settings.batch, rank, ranks);
}

/// What `measure` found: milliseconds of each timed step, and figures over all of them.
struct Measured {
  std::vector<double> milliseconds;
  Extras extras;
};

/// The mean loss of the first and of the last fifth of the steps.
inline Extras losses_of(const std::vector<double>& losses) {
  const auto fifth = std::max<std::ptrdiff_t>(1, std::ssize(losses) / 5);
  const auto mean = [&](auto first) {
    return std::accumulate(first, first + fifth, 0.0) / static_cast<double>(fifth);
  };
  return {{"first_loss", mean(losses.begin())}, {"loss", mean(losses.end() - fifth)}};
}

/// Trains and times the steps; a batch is made before the time begins. `after_backward` runs
/// between backward and the optimizer, `barrier` before the first timed step, so that all ranks are
/// timed while all of them work. While what `pause` returns lives, backward communicates nothing.
template <typename Model, typename AfterBackward, typename Barrier, typename Pause>
Measured measure(const Settings& settings, const Batches& batches, Model& model,
                 AfterBackward&& after_backward, Barrier&& barrier, Pause&& pause) {
  torch::optim::SGD optimizer(model->parameters(),
                              torch::optim::SGDOptions(settings.learning_rate).momentum(0.9));
  Measured measured;
  std::vector<double> losses;
  double sent_before = 0;
  for (int step = 0; step < settings.warmup + settings.steps; ++step) {
    if (step == settings.warmup) {
      barrier();
      if (!settings.interface.empty()) sent_before = sent_bytes(settings.interface);
    }
    const auto batch = batches(step);
    torch::Tensor loss;
    const auto start = std::chrono::steady_clock::now();
    optimizer.zero_grad();
    const auto backward = [&] {
      loss = torch::nn::functional::cross_entropy(model->forward(batch.data), batch.labels);
      loss.backward();
    };
    for (int i = 1; i < settings.accumulate; ++i) {
      [[maybe_unused]] const auto guard = pause();
      backward();
    }
    backward();
    after_backward();
    optimizer.step();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    losses.push_back(loss.item<double>());
    if (step >= settings.warmup) measured.milliseconds.push_back(took.count());
  }
  if (!settings.images.empty()) measured.extras.merge(losses_of(losses));
  if (!settings.interface.empty()) {
    const double sent = sent_bytes(settings.interface) - sent_before;
    measured.extras["sent_mib"] = sent / settings.steps / (1 << 20);
  }
  return measured;
}

/// For variants that never communicate in backward.
struct NoPause {
  int operator()() const { return 0; }
};

/// Largest resident memory so far, as the kernel counts it: pages that ranks share count in each.
inline double peak_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name;) {
    double kib = 0;
    if (name == "VmHWM:" && status >> kib) return kib / 1024;
  }
  throw std::runtime_error("/proc/self/status has no VmHWM");
}

/// Files of a rank: milliseconds of each step, one a line; what else is told, a name and a number a
/// line.
inline void write_figures(const Settings& settings, int rank, const Measured& measured,
                          Extras extras = {}) {
  const std::string name = "rank" + std::to_string(rank);
  std::ofstream file(settings.output / (name + ".txt"));
  for (const double value : measured.milliseconds) file << value << '\n';
  extras.insert(measured.extras.begin(), measured.extras.end());
  extras.emplace("peak_mib", peak_mib());
  std::ofstream others(settings.output / (name + ".extras"));
  for (const auto& [key, value] : extras) others << key << ' ' << value << '\n';
  if (!file.flush() || !others.flush()) {
    throw std::runtime_error("cannot write the figures into " + settings.output.string());
  }
}

}  // namespace bench

// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of the C++ side of the tensor-parallel benchmark; tensor_parallel_driver.py starts it
// and reads its figures.

#include <lockstep/ddp.h>
#include <lockstep/tensor_parallel/cross_entropy.h>
#include <lockstep/tensor_parallel/linear.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Group = std::shared_ptr<lockstep::ProcessGroup>;

constexpr int kAllReduces = 50;

struct Settings {
  std::string task;    // "mlp", "cross_entropy"
  std::string output;  // a folder
  std::int64_t width = 1024, hidden = 4096, batch = 256, classes = 50000;
  int warmup = 0, steps = 0;
};

/// What a rank measured.
struct Figures {
  std::vector<double> steps, all_reduces;  // milliseconds
  double loss = 0;                         // of the first step
  std::int64_t step_kib = 0;               // resident memory that the steps added at most
};

double milliseconds_of(const std::function<void()>& action) {
  const auto start = Clock::now();
  action();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// A figure that the kernel has of this process, "VmRSS" or the peak "VmHWM", in KiB.
std::int64_t memory_figure(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1));
  }
  return 0;
}

/// `step` returns the loss.
Figures measure(const Settings& settings, const Group& group,
                const std::function<torch::Tensor()>& step) {
  Figures figures;
  std::ofstream("/proc/self/clear_refs") << 5 << std::flush;  // the peak begins anew
  const auto before = memory_figure("VmRSS");
  for (int i = 0; i < settings.warmup + settings.steps; ++i) {
    torch::Tensor loss;
    group->barrier();
    const double time = milliseconds_of([&] { loss = step(); });
    if (i == 0) figures.loss = loss.item<double>();
    if (i >= settings.warmup) figures.steps.push_back(time);
  }
  figures.step_kib = memory_figure("VmHWM") - before;
  return figures;
}

/// Two layers with a GELU between them, in the middle of a model: the input has a gradient.
Figures run_mlp(const Settings& settings, const Group& group) {
  torch::manual_seed(1);
  torch::nn::Sequential net;
  if (group->size() == 1) {
    net->push_back(torch::nn::Linear(settings.width, settings.hidden));
    net->push_back(torch::nn::GELU());
    net->push_back(torch::nn::Linear(settings.hidden, settings.width));
  } else {
    using lockstep::nn::ParallelLinearOptions;
    net->push_back(lockstep::nn::ColumnParallelLinear(
        ParallelLinearOptions(settings.width, settings.hidden, group)));
    net->push_back(torch::nn::GELU());
    net->push_back(lockstep::nn::RowParallelLinear(
        ParallelLinearOptions(settings.hidden, settings.width, group)));
  }
  auto input = torch::randn({settings.batch, settings.width}).requires_grad_(true);
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Figures figures = measure(settings, group, [&] {
    optimizer.zero_grad();
    input.mutable_grad().reset();
    auto loss = net->forward(input).square().mean();
    loss.backward();
    optimizer.step();
    return loss;
  });
  const auto sum = torch::ones({settings.batch, settings.width});
  for (int i = 0; i < kAllReduces; ++i) {
    group->barrier();
    figures.all_reduces.push_back(
        milliseconds_of([&] { group->all_reduce(sum, lockstep::ReduceOp::Avg).wait(); }));
  }
  return figures;
}

/// The loss of logits that are there, and their gradient.
Figures run_cross_entropy(const Settings& settings, const Group& group) {
  torch::manual_seed(1);
  const auto targets = torch::randint(settings.classes, {settings.batch}, torch::kLong);
  const auto all = torch::randn({settings.batch, settings.classes});
  auto logits = all.chunk(group->size(), 1)[static_cast<std::size_t>(group->rank())].clone();
  logits.requires_grad_(true);
  lockstep::nn::VocabParallelCrossEntropy split(group);
  return measure(settings, group, [&] {
    logits.mutable_grad().reset();
    auto loss = group->size() == 1 ? torch::nn::functional::cross_entropy(logits, targets)
                                   : split(logits, targets);
    loss.backward();
    return loss;
  });
}

void write_list(std::ostream& file, const char* name, const std::vector<double>& numbers) {
  file << '"' << name << "\":[";
  for (std::size_t i = 0; i < numbers.size(); ++i) file << (i == 0 ? "" : ",") << numbers[i];
  file << "],";
}

void run(const Settings& settings) {
  const auto group = lockstep::init_process_group();
  const auto figures =
      settings.task == "mlp" ? run_mlp(settings, group) : run_cross_entropy(settings, group);
  std::ofstream file(settings.output + "/rank" + std::to_string(group->rank()) + ".json");
  file.precision(9);
  file << '{';
  write_list(file, "steps_ms", figures.steps);
  write_list(file, "all_reduces_ms", figures.all_reduces);
  file << "\"step_kib\":" << figures.step_kib << ",\"loss\":" << figures.loss << "}\n";
  if (!file.flush()) throw std::runtime_error("cannot write the figures");
  group->close();
}

Settings parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    if (name == "--task") settings.task = value;
    if (name == "--output") settings.output = value;
    if (name == "--width") settings.width = std::stoll(value);
    if (name == "--hidden") settings.hidden = std::stoll(value);
    if (name == "--batch") settings.batch = std::stoll(value);
    if (name == "--classes") settings.classes = std::stoll(value);
    if (name == "--warmup") settings.warmup = std::stoi(value);
    if (name == "--steps") settings.steps = std::stoi(value);
  }
  return settings;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 && std::string(argv[1]) == "--describe") {
      std::cout << "lockstep " << lockstep::version() << "\ntorch " << TORCH_VERSION << "\n";
      return EXIT_SUCCESS;
    }
    run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::cerr << "tensor_parallel: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

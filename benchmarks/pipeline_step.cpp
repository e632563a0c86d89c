// SPDX-License-Identifier: BSD-3-Clause
// Steps of a pipeline of equal blocks, whose cut therefore takes equal time. Rank 0 prints one line
// of JSON; benchmarks/pipeline_driver.py starts the ranks.
#include <lockstep/core/version.h>
#include <lockstep/lockstep.h>
#include <lockstep/pipeline/pipeline.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpt/gpt.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string schedule = "1f1b";
  std::int64_t stages_per_rank = 1;
  std::int64_t microbatches = 8;
  std::int64_t rows = 4;  // of a microbatch
  std::int64_t tokens = 64;
  std::int64_t width = 256;
  std::int64_t layers = 8;
  std::int64_t warmup = 3;
  std::int64_t steps = 10;
  bool slots = true;
};

torch::Tensor wave(std::int64_t count, double step) {
  return (torch::arange(count, torch::kDouble) * step).sin();
}

/// Weights by a formula, which pipeline_step.py has as well: the losses of both sides are compared.
void fill(example::Block& block, std::int64_t number) {
  const torch::NoGradGuard without_gradients;
  std::int64_t matrix = 0;
  for (auto& parameter : block->parameters()) {
    if (parameter.dim() < 2) continue;
    const double step = 0.37 + 0.01 * static_cast<double>(4 * number + matrix++);
    const double size = 0.5 / std::sqrt(static_cast<double>(parameter.size(0)));
    parameter.copy_((wave(parameter.numel(), step) * size).view_as(parameter));
  }
}

/// Between steps, so that a wrong gradient shows in the next loss.
void descend(const std::vector<torch::nn::Sequential>& stages) {
  constexpr double kLearningRate = 0.1;
  const torch::NoGradGuard without_gradients;
  for (const auto& stage : stages) {
    for (auto& parameter : stage->parameters()) parameter.sub_(parameter.grad(), kLearningRate);
  }
}

std::vector<torch::nn::Sequential> make_stages(const Settings& settings,
                                               const lockstep::pipeline::Plan& plan, int rank) {
  const auto block = example::GptOptions().width(settings.width).layers(settings.layers);
  std::vector<torch::nn::Sequential> stages;
  const std::int64_t blocks = settings.layers / plan.stages();
  for (const auto number : plan.stages_of(rank)) {
    torch::nn::Sequential stage;
    for (std::int64_t i = 0; i < blocks; ++i) {
      example::Block made(block);
      fill(made, number * blocks + i);
      stage->push_back(made);
    }
    stages.push_back(stage);
  }
  return stages;
}

void print_costs(const lockstep::pipeline::SimulationCosts& costs) {
  std::cout << "\"costs\":[";
  const char* separator = "";
  for (const auto& stage : costs.stages) {
    std::cout << separator << '[' << stage.forward << ',' << stage.input << ',' << stage.weight
              << ',' << stage.backward.value_or(0) << ']';
    separator = ",";
  }
  std::cout << ']';
}

void measure(const Settings& settings) {
  at::set_num_threads(1);
  torch::manual_seed(1);
  const auto group = lockstep::init_process_group();
  const auto options = lockstep::pipeline::PipelineOptions()
                           .microbatches(settings.microbatches)
                           .activation_slots(settings.slots)
                           .schedule(lockstep::pipeline::schedule_named(settings.schedule));
  const auto plan =
      options.schedule().plan(group->size(), settings.stages_per_rank, settings.microbatches);
  auto stages = make_stages(settings, plan, group->rank());
  lockstep::pipeline::Pipeline pipeline(group, stages, options);
  const std::vector<std::int64_t> shape = {settings.rows * settings.microbatches, settings.tokens,
                                           settings.width};
  const auto values = [&shape](double step) {
    return wave(shape[0] * shape[1] * shape[2], step).to(torch::kFloat).view(shape);
  };
  const auto data = values(0.11);
  const auto target = values(0.07);
  const auto loss = [](const torch::Tensor& output, const torch::Tensor& goal) {
    return torch::mse_loss(output, goal);
  };
  std::vector<double> milliseconds;
  std::vector<torch::Tensor> means;  // of the losses of a step; zero where there are none
  for (std::int64_t step = 0; step < settings.warmup + settings.steps; ++step) {
    if (step == settings.warmup) pipeline.reset_statistics();
    for (auto& stage : stages) stage->zero_grad();
    group->barrier();
    const auto begin = Clock::now();
    const auto losses = pipeline.step(data, target, loss);
    group->barrier();  // the step ends when the last rank has ended it
    const std::chrono::duration<double, std::milli> time = Clock::now() - begin;
    if (step >= settings.warmup) milliseconds.push_back(time.count());
    descend(stages);
    means.push_back(losses.empty() ? torch::zeros({}, torch::kDouble)
                                   : torch::stack(losses).to(torch::kDouble).mean());
  }
  const auto costs = pipeline.measured_costs();
  auto losses = torch::stack(means);
  group->all_reduce(losses, lockstep::ReduceOp::Sum).wait();
  if (group->rank() == 0) {
    std::cout << "{\"step_ms\":[";
    for (std::size_t i = 0; i < milliseconds.size(); ++i) {
      std::cout << (i == 0 ? "" : ",") << milliseconds[i];
    }
    std::cout << "],\"losses\":[";
    for (std::int64_t i = 0; i < losses.numel(); ++i) {
      std::cout << (i == 0 ? "" : ",") << std::setprecision(9) << losses[i].item<double>();
    }
    std::cout << std::setprecision(6)
              << "],\"predicted_ms\":" << 1000 * plan.simulate(costs).duration
              << ",\"slots\":" << pipeline.statistics().slots_filled << ',';
    print_costs(costs);
    std::cout << "}\n";
  }
  pipeline.close();
  group->close();
}

/// The step of this plan, where its stages take `costs`, a comma between the numbers: the times of
/// a forward and of a backward, one pair a stage.
void predict(const Settings& settings, int ranks, const std::string& costs) {
  lockstep::pipeline::SimulationCosts simulated;
  std::size_t place = 0;
  while (place < costs.size()) {
    std::size_t used = 0;
    lockstep::pipeline::StageCosts stage;
    stage.forward = std::stod(costs.substr(place), &used);
    place += used + 1;
    stage.backward = std::stod(costs.substr(place), &used);
    place += used + 1;
    simulated.stages.push_back(stage);
  }
  const auto plan = lockstep::pipeline::schedule_named(settings.schedule)
                        .plan(ranks, settings.stages_per_rank, settings.microbatches);
  std::cout << "{\"predicted_ms\":" << 1000 * plan.simulate(simulated).duration << "}\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Settings settings;
    std::string costs;
    int ranks = 2;
    for (int i = 1; i < argc; ++i) {
      const std::string name = argv[i];
      if (name == "--describe") {
        std::cout << "lockstep " << lockstep::version() << "\ntorch " << TORCH_VERSION << "\n";
        return EXIT_SUCCESS;
      }
      if (++i == argc) throw std::invalid_argument(name + " needs a value");
      if (name == "--schedule") settings.schedule = argv[i];
      if (name == "--stages-per-rank") settings.stages_per_rank = std::stoi(argv[i]);
      if (name == "--microbatches") settings.microbatches = std::stoi(argv[i]);
      if (name == "--rows") settings.rows = std::stoi(argv[i]);
      if (name == "--tokens") settings.tokens = std::stoi(argv[i]);
      if (name == "--width") settings.width = std::stoi(argv[i]);
      if (name == "--layers") settings.layers = std::stoi(argv[i]);
      if (name == "--warmup") settings.warmup = std::stoi(argv[i]);
      if (name == "--steps") settings.steps = std::stoi(argv[i]);
      if (name == "--slots") settings.slots = std::stoi(argv[i]) != 0;
      if (name == "--predict") costs = argv[i];
      if (name == "--ranks") ranks = std::stoi(argv[i]);
    }
    if (!costs.empty()) {
      predict(settings, ranks, costs);
    } else {
      measure(settings);
    }
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "pipeline_step: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

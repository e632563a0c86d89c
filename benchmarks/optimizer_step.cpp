// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of the C++ side of the optimizer benchmark; optimizer_step_driver.py starts it and reads
// its figures.

#include <lockstep/core/version.h>
#include <lockstep/optim/adamw.h>
#include <lockstep/optim/sgd.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Parameters = std::vector<torch::Tensor>;

struct Settings {
  std::string variant;  // SIDE_OPTIMIZER
  fs::path shapes;      // a line for each parameter
  fs::path output;
  int warmup = 0;
  int steps = 0;
};

Parameters read_parameters(const fs::path& path) {
  Parameters parameters;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream numbers(line);
    std::vector<std::int64_t> shape;
    for (std::int64_t size = 0; numbers >> size;) shape.push_back(size);
    parameters.push_back(torch::randn(shape).mul_(0.02).requires_grad_());
    parameters.back().mutable_grad() = torch::randn(shape).mul_(0.001);
  }
  return parameters;
}

/// The options are those of the Python side.
std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::string& variant,
                                                        const Parameters& parameters) {
  if (variant == "lockstep_adamw") {
    return std::make_unique<lockstep::optim::AdamW>(parameters,
                                                    lockstep::optim::AdamWOptions(1e-3));
  }
  if (variant == "libtorch_adamw") {
    return std::make_unique<torch::optim::AdamW>(parameters, torch::optim::AdamWOptions(1e-3));
  }
  if (variant == "lockstep_sgd") {
    return std::make_unique<lockstep::optim::SGD>(
        parameters, lockstep::optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-4));
  }
  if (variant == "libtorch_sgd") {
    return std::make_unique<torch::optim::SGD>(
        parameters, torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(1e-4));
  }
  throw std::invalid_argument("there is no variant " + variant);
}

/// Waits for the other ranks, which leave files as well; the driver ends those that wait too long.
void wait_for_all(const fs::path& folder, int rank, int ranks) {
  std::ofstream(folder / ("ready" + std::to_string(rank))).put('1');
  for (int other = 0; other < ranks; ++other) {
    while (!fs::exists(folder / ("ready" + std::to_string(other)))) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

int number_from(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::stoi(text);
}

void measure(const Settings& settings) {
  const auto parameters = read_parameters(settings.shapes);
  const auto optimizer = make_optimizer(settings.variant, parameters);
  for (int i = 0; i < settings.warmup; ++i) optimizer->step();
  const int rank = number_from("RANK");
  wait_for_all(settings.output, rank, number_from("WORLD_SIZE"));
  std::ofstream file(settings.output / ("rank" + std::to_string(rank) + ".json"));
  file << "{\"steps_ms\":[";
  for (int i = 0; i < settings.steps; ++i) {
    const auto start = Clock::now();
    optimizer->step();
    const std::chrono::duration<double, std::milli> time = Clock::now() - start;
    file << (i == 0 ? "" : ",") << time.count();
  }
  file << "]}\n";
  if (!file.flush()) throw std::runtime_error("cannot write the figures");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Settings settings;
    for (int i = 1; i < argc; ++i) {
      const std::string name = argv[i];
      if (name == "--describe") {
        std::cout << "lockstep " << lockstep::version() << "\ntorch " << TORCH_VERSION << "\n";
        return EXIT_SUCCESS;
      }
      if (++i == argc) throw std::invalid_argument(name + " needs a value");
      if (name == "--variant") settings.variant = argv[i];
      if (name == "--shapes") settings.shapes = argv[i];
      if (name == "--output") settings.output = argv[i];
      if (name == "--warmup") settings.warmup = std::stoi(argv[i]);
      if (name == "--steps") settings.steps = std::stoi(argv[i]);
    }
    measure(settings);
  } catch (const std::exception& error) {
    std::cerr << "optimizer_step: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}

// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of the C++ side of the gpt benchmark: the model and the recipe of examples/gpt on
// batches of a file. gpt_driver.py starts it and reads its figures.

#include <gpt/recipe.h>
#include <gpt/weights.h>
#include <lockstep/comm/init.h>
#include <lockstep/optim/clip_grad.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/safetensors.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <string>
#include <vector>

namespace {

struct Settings {
  std::string weights;
  std::string batches;
  std::string output;
  std::int64_t heads = 0;
  std::int64_t warmup = 0;  // of the learning rate
};

struct Step {
  double loss;  // before it
  double milliseconds;
};

// A line a step.
void write_figures(const std::filesystem::path& path, const std::vector<Step>& steps) {
  std::ofstream file(path);
  file << std::setprecision(9);
  for (const auto& step : steps) file << step.loss << ' ' << step.milliseconds << '\n';
  file.close();
  TORCH_CHECK(file, path.string(), ": cannot be written");
}

void train(const Settings& settings) {
  using Clock = std::chrono::steady_clock;
  auto group = lockstep::init_process_group();
  example::Gpt net(example::shape_of(settings.weights, settings.heads));
  example::load_gpt(net, settings.weights);
  lockstep::DistributedDataParallel<example::Gpt> model(net, group);

  // [steps, ranks, windows, tokens]
  const auto all = lockstep::training::load_safetensors(settings.batches).at("tokens");
  const auto own = all.select(1, group->rank()).contiguous();
  const auto steps = own.size(0), end = own.size(2);
  const auto recipe = example::Recipe().steps(steps).warmup(settings.warmup);
  auto optimizer = example::make_optimizer(*net, recipe);
  const auto schedule = example::make_schedule(optimizer, recipe);
  std::vector<Step> done;
  for (std::int64_t step = 0; step < steps; ++step) {
    const auto start = Clock::now();
    const auto tokens = own[step].slice(1, 0, end - 1);
    const auto targets = own[step].slice(1, 1, end);
    optimizer.zero_grad();
    const auto loss = example::loss_of(model, tokens, targets);
    loss.backward();
    lockstep::optim::clip_grad_norm_(net->parameters(), recipe.clip());
    optimizer.step();
    schedule->step();
    const auto value = loss.item<double>();
    done.push_back(
        {value, std::chrono::duration<double, std::milli>(Clock::now() - start).count()});
  }
  std::string name = "rank";
  name += std::to_string(group->rank()) + ".txt";
  write_figures(std::filesystem::path(settings.output) / name, done);
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  bool wants_description = false;
  CLI::App app("One rank of the gpt benchmark");
  app.add_flag("--describe", wants_description, "Print the versions in use and stop");
  app.add_option("--weights", settings.weights, "The model to begin with");
  app.add_option("--heads", settings.heads, "Heads of attention");
  app.add_option("--batches", settings.batches, "What all ranks train on, step by step");
  app.add_option("--warmup", settings.warmup, "Steps in which the learning rate climbs");
  app.add_option("--output", settings.output, "Folder for the figures");
  try {
    app.parse(argc, argv);
    if (wants_description) {
      std::cout << "torch " << TORCH_VERSION << '\n';
      return EXIT_SUCCESS;
    }
    torch::set_num_threads(1);
    train(settings);
    return EXIT_SUCCESS;
  } catch (const CLI::Error& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : 2;
  } catch (const std::exception& error) {
    std::cerr << "gpt: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

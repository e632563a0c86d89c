// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of the C++ side of the checkpoint benchmark; checkpoint_driver.py starts it and reads
// its figures.

#include <lockstep/comm/init.h>
#include <lockstep/core/version.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/training/checkpointer.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "batches.h"
#include "models.h"
#include "plain_files.h"

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using lockstep::training::Checkpointer;
using lockstep::training::CheckpointerOptions;

struct Settings {
  std::string variant;
  std::string arch = "resnet18";
  std::int64_t batch = 32;
  int warmup = 20;
  int steps = 40;
  int every = 10;
  int rounds = 5;
  fs::path folder;
  fs::path output;
};

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// A ResNet in training, and all that a checkpoint has of it.
template <typename Net>
struct Training {
  Training(Net model, const std::shared_ptr<lockstep::ProcessGroup>& group,
           const Settings& settings)
      : net(model),
        ddp(net, group),
        optimizer(ddp->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9)),
        batch(bench::one_random_batch(settings.arch, settings.batch, group->rank())(0)) {
    state.add("model", net).add("optimizer", optimizer).add("step", step).add_random_state();
  }

  /// Returns how long training stood still for checkpoints, in milliseconds; nothing: it was none
  /// of the steps that save, or follow one.
  std::optional<double> train_one_step(Checkpointer* checkpointer) {
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(ddp->forward(batch.data), batch.labels).backward();
    auto start = Clock::now();
    if (checkpointer != nullptr) checkpointer->before_step();
    pending_stall += milliseconds_since(start);
    const auto stall = has_saved ? std::optional(pending_stall) : std::nullopt;
    optimizer.step();
    ++step;
    start = Clock::now();
    has_saved = checkpointer != nullptr && checkpointer->after_step(state, step);
    pending_stall = milliseconds_since(start);
    return stall;
  }

  Net net;
  lockstep::DistributedDataParallel<Net> ddp;
  torch::optim::SGD optimizer;
  bench::Batch batch;
  std::int64_t step = 0;
  lockstep::training::TrainingState state;
  bool has_saved = false;
  double pending_stall = 0;
};

void write_figures(const Settings& settings, int rank, const nlohmann::json& figures) {
  std::ofstream file(settings.output / ("rank" + std::to_string(rank) + ".json"));
  file << figures.dump() << '\n';
  if (!file.flush()) throw std::runtime_error("cannot write into " + settings.output.string());
}

CheckpointerOptions options_of(const Settings& settings) {
  return CheckpointerOptions()
      .every_steps(settings.every)
      .keep_last(2)
      .deferred(settings.variant == "deferred");
}

/// Trains, with checkpoints or without. The first save, which takes its memory, comes before the
/// timed steps.
template <typename Net>
void train(const Settings& settings, const std::shared_ptr<lockstep::ProcessGroup>& group,
           Net net) {
  Training<Net> training(net, group, settings);
  std::unique_ptr<Checkpointer> checkpointer;
  if (settings.variant != "none") {
    checkpointer = std::make_unique<Checkpointer>(group, settings.folder, options_of(settings));
  }
  for (int i = 0; i < settings.warmup; ++i) {
    training.train_one_step(checkpointer.get());
    if (i == 0 && checkpointer && !training.has_saved) checkpointer->save(training.state, 1);
  }
  nlohmann::json figures{{"steps_ms", nlohmann::json::array()},
                         {"stalls_ms", nlohmann::json::array()}};
  group->barrier();
  const auto start = Clock::now();
  for (int i = 0; i < settings.steps; ++i) {
    const auto step_start = Clock::now();
    const auto stall = training.train_one_step(checkpointer.get());
    figures["steps_ms"].push_back(milliseconds_since(step_start));
    if (stall) figures["stalls_ms"].push_back(*stall);
  }
  figures["total_ms"] = milliseconds_since(start);
  if (checkpointer) {
    checkpointer->wait();
    const auto statistics = checkpointer->statistics();
    figures["saves"] = statistics.saves;
    figures["bytes"] = statistics.bytes;
    figures["copied_before_step"] = statistics.copied_before_step;
    figures["writing_ms"] = 1000 * statistics.writing.count();
    figures["waited_ms"] = 1000 * statistics.waited_for_save_before.count();
  }
  write_figures(settings, group->rank(), figures);
}

/// Saves and loads without training, in turns with a plain program that writes and reads as many
/// bytes.
template <typename Net>
void write_and_read(const Settings& settings, const std::shared_ptr<lockstep::ProcessGroup>& group,
                    Net net) {
  Training<Net> training(net, group, settings);
  training.train_one_step(nullptr);
  // What is written is measured, and not what is removed: the plain program removes nothing either.
  const auto options = options_of(settings).keep_last(settings.rounds + 1);
  Checkpointer verified(group, settings.folder / "verified", options);
  Checkpointer unverified(group, settings.folder / "unverified",
                          CheckpointerOptions(options).verify_after_write(false));
  nlohmann::json figures;
  const auto timed = [&](const char* name, const auto& work) {
    group->barrier();
    const auto start = Clock::now();
    work();
    group->barrier();
    figures[name].push_back(milliseconds_since(start));
  };
  const auto save = [&](Checkpointer& checkpointer, int round) {
    checkpointer.save(training.state, round);
    checkpointer.wait();
  };
  for (int round = 0; round <= settings.rounds; ++round) {
    if (round == 1) figures = {};  // memory and files were new
    timed("save_ms", [&] { save(verified, round); });
    timed("save_unverified_ms", [&] { save(unverified, round); });
    const auto bytes = verified.statistics().bytes / static_cast<std::uint64_t>(round + 1);
    const auto plain = settings.folder / ("plain" + std::to_string(group->rank()));
    timed("plain_write_ms", [&] { bench::write_plain(plain, bytes); });
    fs::remove(plain);
    const auto saved = bench::newest_files(settings.folder / "verified");
    if (group->rank() == 0) bench::drop_from_memory(saved);
    timed("load_ms", [&] {
      if (!verified.load_latest(training.state)) throw std::runtime_error("nothing to load");
    });
    if (group->rank() == 0) bench::drop_from_memory(saved);
    timed("plain_read_ms", [&] { bench::read_plain(saved); });
    figures["bytes"].push_back(bytes);
  }
  write_figures(settings, group->rank(), figures);
}

void run(const Settings& settings) {
  auto group = lockstep::init_process_group();
  bench::with_model(settings.arch, 1, [&](auto net) {
    if constexpr (!std::is_same_v<decltype(net), bench::Transformer>) {
      settings.variant == "files" ? write_and_read(settings, group, net)
                                  : train(settings, group, net);
    }
  });
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("One rank of the checkpoint benchmark");
  bool wants_description = false;
  app.add_flag("--describe", wants_description, "Print the versions in use and stop");
  app.add_option("--variant", settings.variant, "What to run")
      ->check(CLI::IsMember({"none", "copied", "deferred", "files"}));
  app.add_option("--arch", settings.arch)
      ->check(CLI::IsMember({"resnet18", "resnet34", "resnet50"}));
  app.add_option("--batch", settings.batch, "Images a rank and step")->check(CLI::PositiveNumber);
  app.add_option("--warmup", settings.warmup, "Steps before the timed ones")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--steps", settings.steps, "Timed steps")->check(CLI::PositiveNumber);
  app.add_option("--every", settings.every, "Steps from save to save")->check(CLI::PositiveNumber);
  app.add_option("--rounds", settings.rounds, "Of the variant files")->check(CLI::PositiveNumber);
  app.add_option("--folder", settings.folder, "For checkpoints")->check(CLI::ExistingDirectory);
  app.add_option("--output", settings.output, "For the figures")->check(CLI::ExistingDirectory);
  try {
    app.parse(argc, argv);
    if (wants_description) {
      std::cout << "torch " << TORCH_VERSION << '\n';
      return EXIT_SUCCESS;
    }
    if (settings.variant.empty() || settings.output.empty() || settings.folder.empty()) {
      throw CLI::RequiredError("--variant, --folder and --output");
    }
    torch::set_num_threads(1);
    run(settings);
    return EXIT_SUCCESS;
  } catch (const CLI::Error& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : 2;
  } catch (const std::exception& error) {
    std::cerr << "checkpoint: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

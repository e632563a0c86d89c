// SPDX-License-Identifier: BSD-3-Clause
#include "options.h"

#include "option_checks.h"
#include "resnet.h"

#include <CLI/CLI.hpp>

#include <map>

namespace example {
namespace {

constexpr int64_t kMany = 1'000'000'000;
constexpr int64_t kPhotographSize = 224;

const std::map<std::string, ProgressStyle>& progress_styles() {
  static const std::map<std::string, ProgressStyle> names = {
      {"auto", ProgressStyle::Auto}, {"bar", ProgressStyle::Bar}, {"lines", ProgressStyle::Lines}};
  return names;
}

// Names of enumerators, which stay text until the command line is known to be right.
struct EnumeratorNames {
  std::string backend = "auto";
  std::string progress = "auto";
};

void add_data_options(CLI::App& app, Options& options) {
  app.add_option("--dataset", options.dataset,
                 "fashion-mnist, image-folder (photographs), or synthetic (made up, no files)")
      ->type_name("NAME")
      ->check(one_of({"fashion-mnist", "image-folder", "synthetic"}));
  app.add_option("--data", options.data,
                 "Folder with train-images-idx3-ubyte and so on, plain or .gz; or an image folder: "
                 "train/CLASS/*.jpg and val/CLASS/*.jpg")
      ->type_name("FOLDER");
  app.add_option("--limit", options.limit, "Use only N images of each set")
      ->type_name("N")
      ->check(whole_number(1, kMany));
  app.add_option(
         "--image-size", options.image_size,
         "Height and width of synthetic images, or of the parts taken from photographs (224 "
         "for these)")
      ->type_name("PIXELS")
      ->check(whole_number(1, 4096));
  app.add_option("--channels", options.channels, "Channels of synthetic images")
      ->type_name("N")
      ->check(whole_number(1, 64));
  app.add_option("--classes", options.classes, "Classes of synthetic images")
      ->type_name("N")
      ->check(whole_number(1, 100000));
  for (const auto* name :
       {"--dataset", "--data", "--limit", "--image-size", "--channels", "--classes"}) {
    app.get_option(name)->group("Data");
  }
}

void add_training_options(CLI::App& app, Options& options) {
  app.add_option("--arch", options.arch,
                 "resnet8, resnet14, resnet20 (small images), resnet18, resnet34, resnet50 (18 for "
                 "an image folder)")
      ->type_name("NAME")
      ->check(one_of(resnet_architectures()));
  app.add_option("--epochs", options.epochs, "Passes over the training images")
      ->type_name("N")
      ->check(whole_number(1, 1000000));
  app.add_option("--batch-size", options.batch_size, "Images a step on each rank")
      ->type_name("N")
      ->check(whole_number(1, 1000000));
  app.add_option("--lr", options.learning_rate, "Highest learning rate, for all ranks together")
      ->type_name("RATE")
      ->check(positive());
  app.add_option("--warmup", options.warmup_epochs,
                 "Epochs in which the rate climbs; then it falls to 0")
      ->type_name("EPOCHS")
      ->check(not_negative());
  app.add_option("--momentum", options.momentum, "Nesterov momentum; 0 for none")
      ->type_name("SHARE")
      ->check(fraction());
  app.add_option("--weight-decay", options.weight_decay, "Weight decay of SGD")
      ->type_name("RATE")
      ->check(not_negative());
  app.add_option("--label-smoothing", options.label_smoothing,
                 "Share of the target given to all classes")
      ->type_name("SHARE")
      ->check(fraction());
  app.add_option("--seed", options.seed, "Of weights and order of images")
      ->type_name("N")
      ->check(whole_number(0, kMany));
  for (const auto* name : {"--arch", "--epochs", "--batch-size", "--lr", "--warmup", "--momentum",
                           "--weight-decay", "--label-smoothing", "--seed"}) {
    app.get_option(name)->group("Training");
  }
}

void add_file_options(CLI::App& app, Options& options) {
  app.add_option("--weights", options.weights,
                 "Weights to begin with, with the names of torchvision or Hugging Face")
      ->type_name("FILE.safetensors");
  app.add_option("--save", options.save, "Write the weights there at the end")
      ->type_name("FILE.safetensors");
  app.add_option("--checkpoints", options.checkpoints,
                 "Save the run there now and then, and when SIGTERM or SIGUSR1 asks it to stop")
      ->type_name("FOLDER");
  app.add_option("--checkpoint-every", options.checkpoint_every, "How often --checkpoints saves")
      ->type_name("STEPS")
      ->check(whole_number(1, kMany));
  app.add_flag("--resume", options.resume, "Go on with the newest of --checkpoints");
  for (const auto* name :
       {"--weights", "--save", "--checkpoints", "--checkpoint-every", "--resume"}) {
    app.get_option(name)->group("Files");
  }
}

void add_run_options(CLI::App& app, Options& options, EnumeratorNames& names) {
  app.add_option("--backend", names.backend,
                 "auto, shared-memory, mpi, hierarchical, gloo, or single (one rank)")
      ->type_name("NAME")
      ->check(one_of(keys(backends())));
  app.add_option("--timeout", options.timeout_seconds, "How long a rank waits for the others")
      ->type_name("SECONDS")
      ->check(whole_number(1, 1000000));
  app.add_option("--threads", options.threads,
                 "CPU threads a rank; 0 shares the cores of the host among its ranks")
      ->type_name("N")
      ->check(whole_number(0, 1024));
  app.add_option("--workers", options.workers,
                 "Processes a rank that load images; 0 loads them between the steps")
      ->type_name("N")
      ->check(whole_number(0, 1024));
  app.add_option("--progress", names.progress, "bar, lines, or auto: a bar on a terminal")
      ->type_name("NAME")
      ->check(one_of(keys(progress_styles())));
  for (const auto* name : {"--backend", "--timeout", "--threads", "--workers", "--progress"}) {
    app.get_option(name)->group("Run");
  }
}

void add_testing_options(CLI::App& app, Options& options) {
  app.add_option("--fail-at", options.fail_at, "Throw in this step, counted from 0")
      ->type_name("STEP")
      ->check(whole_number(0, kMany));
  app.add_option("--fail-rank", options.fail_rank, "The rank that throws")
      ->type_name("RANK")
      ->check(whole_number(0, kMany));
  for (const auto* name : {"--fail-at", "--fail-rank"}) app.get_option(name)->group("Testing");
}

// What photographs need, where the command line does not say otherwise: the defaults are for
// Fashion-MNIST.
std::string adapt_to_folder(const CLI::App& app, Options& options) {
  if (options.dataset != "image-folder") return "";
  if (app.count("--data") == 0) return "--data: must name the image folder";
  if (app.count("--image-size") == 0) options.image_size = kPhotographSize;
  if (app.count("--arch") == 0) options.arch = "resnet18";
  return "";
}

// What no option can know alone. Sets what photographs need.
std::string mistake_of(const CLI::App& app, Options& options) {
  if (options.warmup_epochs > options.epochs) return "--warmup: must not exceed --epochs";
  if (options.resume && options.checkpoints.empty())
    return "--resume: needs --checkpoints, the folder";
  return adapt_to_folder(app, options);
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  CLI::App app(
      "Trains a residual network on all ranks in step, and tests it.\n"
      "Start it with mpirun, or alone for one rank.",
      "resnet");
  app.option_defaults()->always_capture_default()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);
  Options options;
  EnumeratorNames names;
  add_data_options(app, options);
  add_training_options(app, options);
  add_file_options(app, options);
  add_run_options(app, options, names);
  add_testing_options(app, options);

  const auto ending = read_command_line(app, argc, argv, [&] { return mistake_of(app, options); });
  if (ending) return {std::nullopt, ending->text, ending->exit_code};
  options.backend = backends().at(names.backend);
  options.progress = progress_styles().at(names.progress);
  return {options, "", 0};
}

}  // namespace example

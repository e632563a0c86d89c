// SPDX-License-Identifier: BSD-3-Clause
#include "options.h"

#include "option_checks.h"

#include <CLI/CLI.hpp>

namespace example {
namespace {

constexpr int64_t kMany = 1'000'000'000;

// Groups the options that `add` adds.
template <typename Add>
void add_group(CLI::App& app, const char* name, Add add) {
  const auto number_of_old_ones = app.get_options().size();
  add();
  const auto all = app.get_options();
  for (auto i = number_of_old_ones; i < all.size(); ++i) all[i]->group(name);
}

void add_model_options(CLI::App& app, Options& options) {
  app.add_option("--data", options.data, "Folder with train.bin and val.bin (text_to_tokens)")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--block", options.block, "Tokens of a window, and of the longest input")
      ->type_name("N")
      ->check(whole_number(1, 65536));
  app.add_option("--validation-windows", options.validation_windows,
                 "Windows of the validation text that a report measures")
      ->type_name("N")
      ->check(whole_number(1, kMany));
  app.add_option("--layers", options.model.layers(), "Blocks of the model")
      ->type_name("N")
      ->check(whole_number(1, 1000));
  app.add_option("--heads", options.heads,
                 "Heads of attention: 4, or with --weights one for each 64 columns, where nothing "
                 "else is said")
      ->type_name("N")
      ->check(whole_number(1, 1000));
  app.add_option("--width", options.model.width(), "Columns of the model, a multiple of the heads")
      ->type_name("N")
      ->check(whole_number(1, 65536));
  app.add_option("--dropout", options.model.dropout(), "Share of values that training drops")
      ->type_name("SHARE")
      ->check(fraction());
  app.add_option("--weights", options.weights,
                 "Weights of a GPT-2 to begin with, which also say layers, width and vocabulary")
      ->type_name("FILE.safetensors");
}

void add_training_options(CLI::App& app, Options& options) {
  auto& recipe = options.recipe;
  app.add_option("--steps", recipe.steps(), "Steps of the optimizer")
      ->type_name("N")
      ->check(whole_number(1, kMany));
  app.add_option("--batch-size", options.batch_size, "Windows a backward on each rank")
      ->type_name("N")
      ->check(whole_number(1, 1000000));
  app.add_option("--accumulate", options.accumulate, "Backwards a step")
      ->type_name("N")
      ->check(whole_number(1, 1000000));
  app.add_option("--lr", recipe.learning_rate(), "Highest learning rate, for all ranks together")
      ->type_name("RATE")
      ->check(positive());
  app.add_option("--warmup", recipe.warmup(), "Steps in which the rate climbs; then it falls")
      ->type_name("STEPS")
      ->check(whole_number(0, kMany));
  app.add_option("--weight-decay", recipe.weight_decay(), "Weight decay of matrices and tables")
      ->type_name("RATE")
      ->check(not_negative());
  app.add_option("--clip", recipe.clip(), "Highest norm of the gradients")
      ->type_name("NORM")
      ->check(positive());
  app.add_option("--average", options.average,
                 "Reports use a moving average of the weights, of which so much stays in a step; "
                 "0: the weights themselves")
      ->type_name("SHARE")
      ->check(fraction());
  app.add_flag("--bf16", options.bf16, "Multiply matrices in bfloat16");
  app.add_option("--seed", options.seed, "Of weights, order of windows, and samples")
      ->type_name("N")
      ->check(whole_number(0, kMany));
}

void add_output_options(CLI::App& app, Options& options) {
  app.add_option("--report-every", options.report_every, "Measure and write a sample so often")
      ->type_name("STEPS")
      ->check(whole_number(1, kMany));
  app.add_option("--sample", options.sample, "Length of a sample; 0: none")
      ->type_name("BYTES")
      ->check(whole_number(0, 1000000));
  app.add_option("--prompt", options.prompt, "What samples begin with")->type_name("TEXT");
  app.add_option("--tensorboard", options.tensorboard, "Write curves and samples for TensorBoard")
      ->type_name("FOLDER");
  app.add_option("--run-log", options.run_log, "Write what is measured as lines of JSON")
      ->type_name("FILE.jsonl");
  app.add_option("--save", options.save, "Write the weights there at the end, as GPT-2's")
      ->type_name("FILE.safetensors");
  app.add_option("--checkpoints", options.checkpoints,
                 "Save the run there now and then, and when SIGTERM or SIGUSR1 asks it to stop")
      ->type_name("FOLDER");
  app.add_option("--checkpoint-every", options.checkpoint_every, "How often --checkpoints saves")
      ->type_name("STEPS")
      ->check(whole_number(1, kMany));
  app.add_flag("--resume", options.resume, "Go on with the newest of --checkpoints");
}

void add_run_options(CLI::App& app, Options& options, std::string& backend) {
  app.add_option("--backend", backend,
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
  app.add_option("--workers", options.workers, "Processes a rank that make batches; 0: none")
      ->type_name("N")
      ->check(whole_number(0, 1024));
}

void add_testing_options(CLI::App& app, Options& options) {
  app.add_option("--fail-at", options.fail_at, "Throw in this step, counted from 0")
      ->type_name("STEP")
      ->check(whole_number(0, kMany));
  app.add_option("--fail-rank", options.fail_rank, "The rank that throws")
      ->type_name("RANK")
      ->check(whole_number(0, kMany));
}

// What no option can know alone.
std::string mistake_of(const Options& options) {
  const auto& model = options.model;
  // The width of weights in a file is the file's.
  if (options.weights.empty() && model.width() % model.heads() != 0)
    return "--width: must be a multiple of --heads";
  if (options.recipe.warmup() > options.recipe.steps()) return "--warmup: must not exceed --steps";
  if (options.resume && options.checkpoints.empty())
    return "--resume: needs --checkpoints, the folder";
  if (!options.run_log.empty() && !options.run_log.ends_with(".jsonl"))
    return "--run-log: must end in .jsonl";
  if (options.sample > 0 && options.prompt.empty()) return "--prompt: must not be empty";
  return "";
}

}  // namespace

ParsedOptions parse_options(int argc, const char* const* argv) {
  CLI::App app(
      "Trains a small GPT on all ranks in step, and lets it write.\n"
      "Start it with mpirun, or alone for one rank.",
      "gpt");
  app.option_defaults()->always_capture_default()->multi_option_policy(
      CLI::MultiOptionPolicy::TakeLast);
  Options options;
  std::string backend = "auto";
  add_group(app, "Data and model", [&] { add_model_options(app, options); });
  add_group(app, "Training", [&] { add_training_options(app, options); });
  add_group(app, "Output", [&] { add_output_options(app, options); });
  add_group(app, "Run", [&] { add_run_options(app, options, backend); });
  add_group(app, "Testing", [&] { add_testing_options(app, options); });

  const auto ending = read_command_line(app, argc, argv, [&] {
    options.model.positions(options.block).heads(options.heads.value_or(options.model.heads()));
    return mistake_of(options);
  });
  if (ending) return {std::nullopt, ending->text, ending->exit_code};
  options.backend = backends().at(backend);
  return {options, "", 0};
}

}  // namespace example

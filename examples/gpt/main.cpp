// SPDX-License-Identifier: BSD-3-Clause
// Trains a small GPT on all ranks in step. Read `train` first; the other files hold its parts.
#include "checkpoints.h"
#include "errors.h"
#include "gpt.h"
#include "options.h"
#include "recipe.h"
#include "report.h"
#include "start.h"
#include "text.h"
#include "training.h"
#include "weights.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace example {
namespace {

using Clock = Report::Clock;

// With --weights, the file says how large the model is.
Gpt make_net(const Options& options) {
  if (options.weights.empty()) return Gpt(options.model);
  const auto shape = shape_of(options.weights, options.heads.value_or(0));
  TORCH_CHECK_VALUE(options.block <= shape.positions(), options.weights, ": has ",
                    shape.positions(), " positions, which are fewer than --block ", options.block);
  Gpt net(GptOptions(shape).dropout(options.model.dropout()));
  load_gpt(net, options.weights);
  return net;
}

void fail_if_asked_to(const Options& options, int rank, int64_t step) {
  if (options.fail_at == step && options.fail_rank == rank) {
    throw std::runtime_error("fails in step " + std::to_string(step) + ", as --fail-at asks");
  }
}

/// Returns the exit code.
int train(const Options& options, Clock::time_point start) {
  const auto group =
      lockstep::init_process_group(lockstep::ProcessGroupOptions()
                                       .backend(options.backend)
                                       .timeout(std::chrono::seconds(options.timeout_seconds)));
  const auto device = lockstep::bind_device(*group);
  use_threads(options.threads, *group);
  torch::manual_seed(options.seed);

  auto net = together(*group, [&] { return make_net(options); });
  const auto vocabulary = net->options().vocabulary();
  auto loader = together(*group, [&] { return make_training_loader(options, vocabulary, *group); });
  auto windows =
      together(*group, [&] { return make_validation_loader(options, vocabulary, *group); });
  net->to(device);
  Model model(net, group);
  auto optimizer = make_optimizer(*net, options.recipe);
  const auto schedule = make_schedule(optimizer, options.recipe);
  const auto average = make_average(net, options.average);

  Checkpoints checkpoints({options.checkpoints, options.checkpoint_every, options.resume}, group);
  int64_t step = 0;
  int64_t epoch = 0;
  checkpoints.state()
      .add("model", net)
      .add("optimizer", optimizer)
      .add("schedule", *schedule)
      .add("ddp", model)
      .add("loader", loader)
      .add("step", step)
      .add("epoch", epoch);
  if (average) checkpoints.state().add("average", *average);
  // The schedule of a run has its length.
  checkpoints.state().add_random_state().require("steps", std::to_string(options.recipe.steps()));
  const bool is_resumed = checkpoints.resume();

  BatchStream batches(loader, epoch, is_resumed);
  Trainer trainer{options, device, net, model, optimizer, *schedule, average.get()};
  const auto report = together(*group, [&] {
    return std::make_unique<Report>(options, net, average.get(), windows, device, *group, step);
  });
  while (step < options.recipe.steps()) {
    fail_if_asked_to(options, group->rank(), step);
    report->begin_step();
    const double loss = trainer.run_step(batches, step);
    report->end_step(++step, loss);
    if (checkpoints.after_step(step)) {
      group->close();
      return kStoppedExitCode;
    }
  }
  const double validation_loss = report->validation_loss();
  if (group->rank() == 0 && !options.save.empty()) {
    report->save(options.save);
  }
  checkpoints.finish();
  group->close();
  if (group->rank() == 0) {
    const std::chrono::duration<double> seconds = Clock::now() - start;
    std::printf("result: validation_loss=%.4f tokens_per_second=%.0f seconds=%.0f ranks=%d\n",
                validation_loss, report->tokens_per_second(), seconds.count(), group->size());
  }
  return 0;
}

}  // namespace
}  // namespace example

int main(int argc, char** argv) {
  const auto start = example::Clock::now();
  return example::exit_code_of("gpt", [&] {
    const auto launch = lockstep::LaunchEnvironment::detect();
    const auto parsed = example::parse_options(argc, argv);
    if (!parsed.options) return example::print_text(parsed.text, parsed.exit_code, launch);
    return example::train(*parsed.options, start);
  });
}

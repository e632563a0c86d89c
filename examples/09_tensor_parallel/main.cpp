// SPDX-License-Identifier: BSD-3-Clause
// Trains a GPT whose layers the ranks share. However many ranks share it, it begins with the same
// weights, sees the same text, and has the same losses but for rounding:
//   mpirun -n 2 tensor_parallel_example --data FOLDER               two ranks share the model
//   mpirun -n 4 tensor_parallel_example --data FOLDER --tensor 2    two pairs, DDP between them
//   tensor_parallel_example --data FOLDER                           one rank has all of it
// FOLDER has train.bin and val.bin, which text_to_tokens of examples/gpt makes of any text.
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "parallel_gpt.h"
#include "run_program.h"

namespace {

using namespace lockstep::data;
using example::ParallelGpt;
using example::ParallelGptOptions;

struct Options {
  std::string data;
  int tensor = 0;  // 0: all ranks
  ParallelGptOptions model;
  std::int64_t block = 64;
  std::int64_t batch_size = 8;
  std::int64_t steps = 200;
  std::int64_t report_every = 50;
  std::int64_t validation_windows = 64;
  double learning_rate = 1e-3;
  std::string load, save;
};

DataLoader<TokenFile> make_loader(const Options& options, const lockstep::Mesh& mesh) {
  const TokenFile text(
      options.data + "/train.bin",
      TokenFileOptions().block(options.block).vocabulary(options.model.vocabulary()));
  // Ranks that share a model get the same windows; replicas get different ones.
  return DataLoader<TokenFile>(
      text,
      DistributedSampler(text.size(), mesh.size("data"), mesh.index("data"),
                         DistributedSamplerOptions().shuffle(true).seed(7)),
      DataLoaderOptions().batch_size(options.batch_size).drop_last(true));
}

/// The mean loss of the first windows of the validation text.
double validation_loss(ParallelGpt& net, const Options& options) {
  const torch::NoGradGuard no_grad;
  TokenFile text(options.data + "/val.bin",
                 TokenFileOptions().block(options.block).vocabulary(options.model.vocabulary()));
  const auto windows =
      std::min<std::int64_t>(options.validation_windows, static_cast<std::int64_t>(text.size()));
  double sum = 0;
  for (std::int64_t i = 0; i < windows; ++i) {
    const auto window = text.get(static_cast<std::size_t>(i));
    sum += net->forward(window.data.unsqueeze(0), window.target.unsqueeze(0)).item<double>();
  }
  return sum / static_cast<double>(windows);
}

void run(Options options) {
  auto group = lockstep::init_process_group();  // any launcher, or alone
  if (options.tensor == 0) options.tensor = group->size();
  // Neighbours share a model; the mesh says so if their number does not divide that of all ranks.
  lockstep::Mesh mesh(
      group, {{"data", std::max(1, group->size() / options.tensor)}, {"tensor", options.tensor}});
  torch::manual_seed(7);  // the same on all ranks: each draws all weights, and keeps its part
  at::set_num_threads(1);

  options.model.positions(options.block);
  ParallelGpt net(options.model, mesh.group("tensor"));
  if (!options.load.empty()) lockstep::nn::load_full(net, options.load);
  lockstep::DistributedDataParallel<ParallelGpt> model(net, mesh.group("data"));
  lockstep::optim::AdamW optimizer(net->parameters(),
                                   lockstep::optim::AdamWOptions(options.learning_rate));
  auto loader = make_loader(options, mesh);

  std::int64_t step = 0;
  for (std::int64_t epoch = 0; step < options.steps; ++epoch) {
    loader.set_epoch(epoch);
    TORCH_CHECK_VALUE(loader.size() > 0, options.data, "/train.bin does not fill one batch");
    for (auto& batch : loader) {
      optimizer.zero_grad();
      const auto loss = model->forward(batch.data, batch.target);
      loss.backward();
      lockstep::nn::clip_grad_norm_(net, 1.0);  // of the full model
      optimizer.step();
      ++step;
      if (group->rank() == 0 && step % options.report_every == 0) {
        std::printf("step %lld/%lld: loss %.4f\n", static_cast<long long>(step),
                    static_cast<long long>(options.steps), loss.item<double>());
        std::fflush(stdout);
      }
      if (step == options.steps) break;
    }
  }
  const double loss = validation_loss(net, options);
  if (!options.save.empty() && mesh.index("data") == 0) lockstep::nn::save_full(net, options.save);
  if (group->rank() == 0) {
    std::printf("result: validation_loss=%.4f ranks=%d tensor=%d\n", loss, group->size(),
                options.tensor);
  }
  mesh.close();
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a GPT whose layers the ranks share.", "tensor_parallel");
  app.option_defaults()->always_capture_default();
  const auto positive = CLI::Range(1, 1000000);
  app.add_option("--data", options.data, "Folder with train.bin and val.bin")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--tensor", options.tensor, "Ranks that share a model; 0: all")
      ->check(CLI::Range(0, 1024));
  std::int64_t layers = options.model.layers(), heads = options.model.heads();
  std::int64_t width = options.model.width();
  app.add_option("--layers", layers, "Blocks of the model")->check(positive);
  app.add_option("--heads", heads, "Heads of attention")->check(positive);
  app.add_option("--width", width, "Columns of the model")->check(positive);
  app.add_option("--block", options.block, "Tokens of a window")->check(positive);
  app.add_option("--batch-size", options.batch_size, "Windows a replica and step")->check(positive);
  app.add_option("--steps", options.steps, "Steps of the run")->check(positive);
  app.add_option("--report-every", options.report_every, "Steps between reports")->check(positive);
  app.add_option("--validation-windows", options.validation_windows, "Windows that measure")
      ->check(positive);
  app.add_option("--lr", options.learning_rate, "Learning rate")->check(CLI::Range(1e-8, 10.0));
  app.add_option("--load", options.load, "Full weights to begin with")->type_name("FILE");
  app.add_option("--save", options.save, "Where the full weights go")->type_name("FILE");
  return example::run_program(app, argc, argv, [&] {
    options.model.layers(layers).heads(heads).width(width);
    run(options);
  });
}
